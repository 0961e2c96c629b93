"""The suite's sampler: solver, steps, guidance scale. It belongs to the suite, never to a method or a base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from bench.core.bounds import Guidance, Solver
from bench.core.spec import Spec

__all__ = ["Sampler", "noise_schedule"]

_OF_THE_BASE: Final = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)


def noise_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a saved scheduler that belong to the model: how noise was added, and what the network predicts.

    The rest says how somebody liked to sample (Karras sigmas, thresholding, an offset of the
    steps). The suite decides that, so two bases with the same networks give the same images.

    Args:
        config: A base's scheduler configuration, as saved.
    """
    return {key: config[key] for key in _OF_THE_BASE if key in config}


class Sampler(Spec):
    """How images are sampled.

    Of the base's own scheduler only the noise schedule is taken; see :func:`noise_schedule`.

    Attributes:
        solver: ``dpmpp`` is DPM-Solver++(2M) (Lu et al. 2022), deterministic; ``ddim``; ``euler``.
        steps: Solver steps.
        guidance_scale: 1 turns guidance off.
        size: Pixels of a side, a multiple of 8; ``None`` takes the model's own.
    """

    kind: ClassVar[str] = "sampler"
    name: ClassVar[str] = "sampler"
    revision: ClassVar[int] = 2  # 1 let the base's saved options choose timesteps and thresholds
    solver: Literal["dpmpp", "ddim", "euler"] = "dpmpp"
    steps: Solver = 6
    guidance_scale: Guidance = 3.0
    size: int | None = Field(None, ge=8, le=4096, multiple_of=8)

    def times(self, config: Mapping[str, Any]) -> list[float]:
        """The timesteps of the steps, first to last, on a model's noise schedule."""
        timesteps: list[float] = self.scheduler(config, "cpu").timesteps.double().tolist()
        return timesteps

    def scheduler(self, config: Mapping[str, Any], device: Any) -> Any:
        """A fresh diffusers scheduler with the model's noise schedule, ready for ``steps`` steps."""
        # Here, because diffusers takes seconds to import and a plan needs none of it.
        from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

        schedule = noise_schedule(config)
        match self.solver:
            case "dpmpp":
                made = DPMSolverMultistepScheduler(
                    **schedule, algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="trailing",
                    final_sigmas_type="zero", lower_order_final=True,
                )  # fmt: skip
            case "ddim":
                # Stable Diffusion's last step ends at its first noise level, not at none.
                made = DDIMScheduler(
                    **schedule, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False,
                )  # fmt: skip
            case "euler":
                made = EulerDiscreteScheduler(**schedule, timestep_spacing="trailing")
        made.set_timesteps(self.steps, device=device)
        return made
