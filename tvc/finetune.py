"""The unconditional fine-tune that a task vector is made from (Pham et al., arXiv 2404.03631).

Images of the concept come from the unedited model itself and are learnt with *empty captions*. The
UNet learns p(concept | ""), and no mapping from a text. This makes the subtracted direction
independent of the prompt. Reproduced from the published scripts (methods.md 1.2). Every
constant of the ``mini`` preset is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from bench.core.lazy import torch
from bench.interfaces import Concept, Progress, Rng, Role, silent
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of, latents_of
from bench.toolkit.tuning import Optimiser, timesteps, tune
from tvc.sight import Sight
from tvc.task_vector import TaskVector

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PRESETS", "FineTune", "check_drawn", "concept_images", "fine_tune"]

_DRAWN = 0.5


@dataclass(frozen=True, slots=True)
class FineTune:
    """How the concept is learnt.

    Attributes:
        images: Sampled from the unedited model with the concept's name.
        steps: Optimiser steps.
        lr: AdamW's learning rate, constant.
        batch_size: Images per step.
        caption: ``empty``; or ``concept``, the conditional variant, kept only to compare.
        flip: Learn the mirrored images as well.
        checkpointing: Less memory, more time.
    """

    images: int = 200
    steps: int = 200
    lr: float = 1e-5
    batch_size: int = 16
    caption: Literal["empty", "concept"] = "empty"
    flip: bool = True
    checkpointing: bool = False


PRESETS: Final = {
    "sd14-published": FineTune(checkpointing=True),
    "mini": FineTune(images=128, steps=150, lr=1e-4, batch_size=16, flip=False),
}
"""``sd14-published``: methods.md 1.2. ``mini``: no flip, since the miniature's arrows and moons have a side."""


def concept_images(
    model: TextToImage,
    sight: Sight,
    n: int,
    *,
    rng: Rng,
    progress: Progress = silent,
) -> Tensor:
    """Images [n, 3, H, W] of the concept, sampled by its name.

    Raises:
        ValueError: the model cannot draw the concept: the surrogate sees it in less than half of
            them.
    """
    seeds = [rng.seed("concept images", k) for k in range(n)]
    images = images_of(model, [sight.concept.text] * n, seeds, sight.sampler, progress=progress)
    check_drawn(model, sight, images)
    return images


def check_drawn(model: TextToImage, sight: Sight, images_N3HW: Tensor) -> None:
    """Refuses images in which the surrogate does not see the concept.

    Raises:
        ValueError: the surrogate sees it in less than half of them.
    """
    share = float(sight.seen(model, images_N3HW).float().mean())
    if share < _DRAWN:
        raise ValueError(
            f"the base draws {sight.concept.text!r} in only {share:.0%} of {len(images_N3HW)} images, by "
            f"{sight.surrogate.label}; expected at least {_DRAWN:.0%}: a concept that the base cannot draw "
            "cannot be erased from it"
        )


def fine_tune(
    model: TextToImage,
    concept: Concept,
    images_N3HW: Tensor,
    how: FineTune,
    *,
    rng: Rng,
    progress: Progress = silent,
) -> TaskVector:
    """The task vector of a concept over the whole UNet.

    Each batch is drawn from the images with replacement. The published script goes through them in
    shuffled epochs: the same expectation, with a little more noise here.

    Args:
        model: The unedited model.
        concept: Only its name is used, and only by the conditional variant.
        images_N3HW: Of the concept, in [0, 1].
        how: Constants.
        rng: Source of timesteps, noise and order.
        progress: Told after each step.
    """
    names = model.having(Role.DENOISER)
    if how.flip:  # of the images: the latents of a mirrored image are not its mirrored latents
        images_N3HW = torch.cat([images_N3HW, images_N3HW.flip(-1)])
    latents = latents_of(model, images_N3HW).float()
    with torch.no_grad():
        told = model.encode(["" if how.caption == "empty" else concept.text])

    def loss_of(live: TextToImage, step: int) -> Tensor:
        generator = rng.generator("fine-tune", step)
        rows = torch.randint(len(latents), (how.batch_size,), generator=generator)
        clean = latents[rows.to(latents.device)]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = timesteps(live, how.batch_size, generator)
        noisy = live.schedule.add_noise(clean, noise, t).to(model.device, model.dtype)
        predicted = live.denoise(noisy, t, told.repeat(how.batch_size))
        return (predicted.float() - live.schedule.target(clean, noise, t)).square().mean()

    optimiser = Optimiser(
        steps=how.steps,
        lr=how.lr,
        weight_decay=1e-2,
        clip=1.0,
        ema=True,
        checkpointing=how.checkpointing,
    )
    tuned = tune(model, names, loss_of, optimiser, progress=progress, what="task vector")
    return TaskVector.between(model, tuned)
