"""The original model, as an attacker knows it: target images, and how to compare with it.

The access is stated once, here: these attacks may *sample* the unedited model, and P4D, and concept
inversion behind a defence in the guidance, may call its UNet. Erasures are published as changes of a
public model, so an attacker has it; the same is assumed by UnlearnDiffAtk, P4D and concept
inversion. No attack reads the edit from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from bench.core.lazy import no_grad, torch
from bench.interfaces import Target
from bench.model.guidance import ClassifierFree
from bench.model.sampler import Sampler
from bench.model.schedule import Schedule
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "guidance_scale",
    "latents_of",
    "step_of",
    "target_images",
    "target_latents",
    "unedited",
]


def unedited(model: TextToImage) -> TextToImage:
    """The original model; it shares the backbone, so it costs no memory."""
    return replace(model, weights={}, guidance=ClassifierFree(), filters=())


@no_grad
def target_images(target: Target, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """The original model's images [B, 3, H, W].

    Args:
        target: Its sampler is used.
        prompts: B prompts.
        seeds: One a prompt.
    """
    out = unedited(target.model).sample(prompts, seeds, target.sampler)
    return out.all_finite().images_B3HW


@no_grad
def latents_of(target: Target, images_B3HW: Tensor) -> Tensor:
    """Clean latents [B, C, h, w] of images by the original model's autoencoder, on the model's device."""
    model = unedited(target.model)
    encoded = model.micro.map(len(images_B3HW), lambda rows: model.to_latents(images_B3HW[rows]))
    return encoded.float()


def target_latents(target: Target, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Clean latents [B, C, h, w] of the original model's images, on the model's device.

    Args:
        target: Its sampler is used.
        prompts: B prompts.
        seeds: One per prompt.
    """
    return latents_of(target, target_images(target, prompts, seeds))


def guidance_scale(target: Target, given: float | None) -> float:
    """The scale an attack's loss is taken at.

    Args:
        target: The edited model and the suite's sampler.
        given: The attack's own choice; ``None`` adapts: a defence that acts in the guidance is
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
