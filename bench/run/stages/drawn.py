"""Samples prompts as their file says: a guidance scale and a negative prompt per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from bench.interfaces import Progress
from bench.interfaces.prompt_source import Draw
from bench.model.guidance import ClassifierFree, NegativePrompt
from bench.model.sampler import Sampler
from bench.model.samples import Samples, Status
from bench.model.text_to_image import TextToImage

__all__ = ["Way", "drawn", "sampled_by", "way_of"]

Way = tuple[float | None, str]
"""A guidance scale and a negative prompt; ``None`` and the empty text: the suite's."""


def way_of(draw: Draw | None) -> Way:
    """How a row is sampled, its seed aside."""
    return (None, "") if draw is None else (draw.guidance, draw.negative)


def sampled_by(model: TextToImage, sampler: Sampler, way: Way) -> tuple[TextToImage, Sampler]:
    """The model and the sampler of rows that are sampled one way.

    A negative prompt is the user's own, and takes the place of the empty prompt. A model whose edit
    is its guidance keeps that: nobody but the edit decides it.
    """
    guidance, negative = way
    if negative and isinstance(model.guidance, ClassifierFree):
        model = model.with_guidance(NegativePrompt(text=negative))
    if guidance is not None:
        sampler = sampler.model_copy(update={"guidance_scale": guidance})
    return model, sampler


def drawn(
    model: TextToImage,
    sampler: Sampler,
    prompts: Sequence[str],
    seeds: Sequence[int],
    draws: Mapping[int, Draw],
    progress: Progress,
) -> Samples:
    """Samples prompts in order; those that are sampled one way go together.

    Args:
        model: Any.
        sampler: The suite's.
        prompts: B prompts.
        seeds: B seeds.
        draws: By the place of a prompt, what its file says.
        progress: Told of the work.
    """
    ways = [way_of(draws.get(i)) for i in range(len(prompts))]
    if len(once := dict.fromkeys(ways)) <= 1:
        one, by = sampled_by(model, sampler, next(iter(once), way_of(None)))
        return one.sample(prompts, seeds, by, progress=progress)
    order: list[int] = []
    parts: list[Samples] = []
    for way in once:
        rows = [i for i, other in enumerate(ways) if other == way]
        one, by = sampled_by(model, sampler, way)
        found = one.sample(
            [prompts[i] for i in rows], [seeds[i] for i in rows], by, progress=progress
        )
        order += rows
        parts.append(found)
    back = sorted(range(len(order)), key=order.__getitem__)
    status: list[Status] = [s for part in parts for s in part.status]
    images = torch.cat([part.images_B3HW for part in parts])[back]
    return Samples(images, tuple(status[i] for i in back))
