"""What an attacker knows of the original model: target images, and how to compare with it.

The access is stated once, here: these attacks may *sample* the unedited model, and P4D, and concept
inversion behind a defence in the guidance, may call its UNet. Erasures are published as changes of a
public model, so an attacker has it; the same is assumed by UnlearnDiffAtk, P4D and concept
inversion. No attack reads the edit from it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from bench.guidance import ClassifierFree
from bench.interfaces import Concept, Target
from bench.lazy import no_grad, torch
from bench.model import TextToImage
from bench.sampler import Sampler

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "guidance_scale",
    "step_of",
    "target_latents",
    "templates",
    "unedited",
]

_STYLE = ("{}", "as a {}", "a picture in the style of {}")
_THING = ("{}", "a {}", "a picture of a {}")


def unedited(model: TextToImage) -> TextToImage:
    """The original model; it shares the backbone, so it costs no memory."""
    return replace(model, weights={}, guidance=ClassifierFree(), filters=())


def templates(concept: Concept) -> tuple[str, ...]:
    """Generic prompts with the concept at ``{}``: they need its name and family, and no more."""
    return _STYLE if concept.family == "style" else _THING


@no_grad
def target_latents(target: Target, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Clean latents [B, C, h, w] of the original model's images, on the model's device.

    Args:
        target: Its sampler is used.
        prompts: B prompts.
        seeds: One a prompt.
    """
    model = unedited(target.model)
    images = model.sample(prompts, seeds, target.sampler).images_B3HW
    return model.micro.map(len(images), lambda rows: model.to_latents(images[rows])).float()


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
    config = target.model.backbone.scheduler_config
    # Not by canonical_json: some schedulers have an infinity.
    key = json.dumps(dict(config), sort_keys=True)
    times = torch.tensor(_times(target.sampler, key), dtype=torch.float64)
    return int((times - t).abs().argmin())


@lru_cache(maxsize=8)
def _times(sampler: Sampler, config: str) -> tuple[float, ...]:
    """The sampler's timesteps; kept, because an attack asks at every step of its gradient."""
    return tuple(sampler.times(json.loads(config)))
