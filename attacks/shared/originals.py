"""The original model, as an attacker knows it: target images, and how to compare with it.

The access is stated once, here. These attacks may *sample* the unedited model; P4D, and concept
inversion behind a defence in the guidance, may call its UNet. Erasures are published as changes of
a public model, so an attacker has it; the same is assumed by UnlearnDiffAtk, P4D and concept
inversion. No attack reads the edit from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from bench.core.lazy import torch
from bench.interfaces import Target
from bench.model.sampler import Sampler
from bench.model.schedule import Schedule
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of, latents_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "guidance_scale",
    "step_of",
    "target_images",
    "target_latents",
    "unedited",
]


def unedited(model: TextToImage) -> TextToImage:
    """The original model; it shares the backbone, so it costs no memory."""
    return model.unedited


def target_images(target: Target, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """The original model's images [B, 3, H, W].

    Args:
        target: Its sampler is used.
        prompts: B prompts.
        seeds: One per prompt.
    """
    return images_of(unedited(target.model), prompts, seeds, target.sampler)


def target_latents(target: Target, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Clean latents [B, C, h, w] of the original model's images, float32 on the model's device.

    Args:
        target: Its sampler is used.
        prompts: B prompts.
        seeds: One per prompt.
    """
    return latents_of(target.model, target_images(target, prompts, seeds)).float()


def guidance_scale(target: Target, given: float | None) -> float:
    """The scale an attack's loss is taken at.

    Args:
        target: The edited model and the suite's sampler.
        given: The attack's own choice; ``None`` adapts. A defence that acts in the guidance is
            attacked through it, at the suite's scale; any other without guidance, as published.
    """
    if given is not None:
        return given
    return target.sampler.guidance_scale if "guidance" in target.model.slots else 1.0


def step_of(target: Target, t: int) -> int:
    """The sampling step nearest to timestep ``t``: a guidance may warm up by steps, not timesteps."""
    times = torch.tensor(_times(target.sampler, target.model.schedule), dtype=torch.float64)
    return int((times - t).abs().argmin())


@lru_cache(maxsize=8)
def _times(sampler: Sampler, schedule: Schedule) -> tuple[float, ...]:
    """The sampler's timesteps; kept, because an attack asks at every step of its gradient."""
    return tuple(sampler.times(schedule.config))
