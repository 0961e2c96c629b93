"""Where sampling starts, for attacks that choose it: noise that the original model began to sample, or a noised image.

A start is a number of the suite's own steps, because the suite owns the sampler. The less an edited model has to do,
the less the edit can say. With no step left the image would be the attacker's own. So at least one
step is always left, and each attack says how many it left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attacks.shared.originals import unedited
from bench.core.lazy import no_grad, torch
from bench.interfaces import Target

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["begun", "noised", "said"]


@no_grad
def begun(
    target: Target,
    prompts: Sequence[str],
    noise_BChw: Tensor,
    seeds: Sequence[int],
    steps: int,
) -> Tensor:
    """Latents [B, C, h, w] after the original model took the first steps of the suite's sampler, on the CPU.

    Args:
        target: Its sampler is used.
        prompts: B prompts.
        noise_BChw: Initial noise of standard deviation 1.
        seeds: One per prompt, for solvers that draw.
        steps: How many; 0 gives the noise back as it is.
    """
    if steps == 0:
        return noise_BChw
    model = unedited(target.model)

    def chunk(rows: slice) -> Tensor:
        told = model.encode(prompts[rows])
        found = model.clean_latents(told, noise_BChw[rows], seeds[rows], target.sampler, last=steps)
        return found.cpu()

    return model.micro.map(len(prompts), chunk)


@no_grad
def noised(target: Target, latents_BChw: Tensor, noise_BChw: Tensor, steps: int) -> Tensor:
    """Clean latents with the noise that the suite's sampler finds before its step ``steps``, float32 on the CPU.

    Args:
        target: Its sampler is used.
        latents_BChw: Of images.
        noise_BChw: Of standard deviation 1.
        steps: How many steps are taken to be done.
    """
    schedule = target.model.schedule
    time = round(target.sampler.times(schedule.config)[steps])
    t_B = torch.full((len(latents_BChw),), time, dtype=torch.int64)
    return schedule.add_noise(latents_BChw.float().cpu(), noise_BChw.float().cpu(), t_B)


def said(steps: int, of: int) -> str:
    """How a candidate says where it starts: its variant."""
    return f"{steps} of {of} steps"
