"""The suite's sampler: solver, steps, guidance scale. It belongs to the suite, never to a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from pydantic import Field

from bench.bounds import Guidance, Solver
from bench.spec import Spec

__all__ = ["Sampler"]


class Sampler(Spec):
    """How images are sampled.

    Attributes:
        solver: ``dpmpp`` is DPM-Solver++(2M) (Lu et al. 2022), deterministic; ``ddim``; ``euler``.
        steps: Solver steps.
        guidance_scale: 1 turns guidance off.
        size: Pixels of a side, a multiple of 8; ``None`` takes the model's own.
    """

    kind: ClassVar[str] = "sampler"
    name: ClassVar[str] = "sampler"
    solver: Literal["dpmpp", "ddim", "euler"] = "dpmpp"
    steps: Solver = 6
    guidance_scale: Guidance = 3.0
    size: int | None = Field(None, ge=8, le=4096, multiple_of=8)

    def times(self, config: Mapping[str, Any]) -> list[float]:
        """The timesteps of the steps, first to last, on a model's noise schedule."""
        timesteps = self.scheduler(config, "cpu").timesteps
        times: list[float] = torch.as_tensor(timesteps, dtype=torch.float64).tolist()
        return times

    def scheduler(self, config: Mapping[str, Any], device: Any) -> Any:
        """A fresh diffusers scheduler with the model's noise schedule, ready for ``steps`` steps."""
        match self.solver:
            case "dpmpp":
                made = DPMSolverMultistepScheduler.from_config(
                    config, algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="trailing",
                    final_sigmas_type="zero", lower_order_final=True,
                )  # fmt: skip
            case "ddim":
                made = DDIMScheduler.from_config(
                    config, timestep_spacing="trailing", clip_sample=False
                )
            case "euler":
                made = EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing")
        made.set_timesteps(self.steps, device=device)
        return made
