"""Images that a model makes of prompts, and images as latents: what a paper's file learns a concept from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.core.lazy import no_grad
from bench.interfaces import Progress, silent
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["images_of", "latents_of"]


@no_grad
def images_of(
    model: TextToImage,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: Sampler,
    *,
    progress: Progress = silent,
) -> Tensor:
    """The model's images [B, 3, H, W] in [0, 1], on the CPU.

    Args:
        model: Its own guidance is used.
        prompts: B prompts; those of :func:`bench.toolkit.wording.about` show a concept.
        seeds: One per prompt.
        sampler: How.
        progress: Told after each step.

    Raises:
        FloatingPointError: an image is not finite: nothing can be learned from it.
    """
    return model.sample(prompts, seeds, sampler, progress=progress).all_finite().images_B3HW


@no_grad
def latents_of(model: TextToImage, images_B3HW: Tensor) -> Tensor:
    """Clean, scaled latents [B, C, h, w] of images in [0, 1], in the model's precision and on its device.

    The mean of the autoencoder's posterior, not one draw from it. Encoded in micro-batches, halved
    when memory runs out.
    """
    return model.micro.map(len(images_B3HW), lambda rows: model.to_latents(images_B3HW[rows]))
