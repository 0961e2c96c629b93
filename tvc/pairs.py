"""The paired vector: what a fine-tune on scenes with a concept adds to one on the same scenes without it.

Ours, not the paper's. Pham et al. (arXiv 2404.03631) subtract ``tau(with)``. It holds all that the
concept's images have in common. That is the concept, but also one thing in the middle of each, and the
look of the model's own images. Images of the same scenes without the concept have the rest in common
too. So ``tau = tau(with) - share * tau(without)``. Both are learnt under empty captions from the same
draws: initial noise of the images, order, timesteps and noise of the fine-tune.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.interfaces import Concept, Progress, Rng, silent
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of
from tvc.finetune import FineTune, check_drawn, fine_tune
from tvc.scenes import Scenes, scene_pairs
from tvc.sight import Sight
from tvc.task_vector import TaskVector

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["paired_images", "paired_vector"]

_STILL_THERE = 0.5


def paired_images(
    model: TextToImage,
    sight: Sight,
    scenes: Scenes,
    n: int,
    *,
    rng: Rng,
    progress: Progress = silent,
) -> tuple[Tensor, Tensor]:
    """Images [n, 3, H, W] of scenes with the concept, and of the same scenes without it, from the same noise.

    Raises:
        ValueError: no scenes for the concept's family; the model cannot draw the concept in them; or it
            draws it where nobody asked for it.
    """
    pairs = scene_pairs(sight.concept, scenes, n)
    seeds = [rng.seed("scenes", k) for k in range(n)]
    shown = images_of(model, [scene for scene, _ in pairs], seeds, sight.sampler, progress=progress)
    check_drawn(model, sight, shown)
    plain = images_of(model, [other for _, other in pairs], seeds, sight.sampler, progress=progress)
    seen = float(sight.seen(model, plain).float().mean())
    if seen > _STILL_THERE:
        raise ValueError(
            f"the scenes without {sight.concept.text!r} show it in {seen:.0%} of {n} images, by "
            f"{sight.surrogate.label}; expected at most {_STILL_THERE:.0%}: give scenes in which "
            "something else stands in its place"
        )
    return shown, plain


def paired_vector(
    model: TextToImage,
    concept: Concept,
    images_with_N3HW: Tensor,
    images_without_N3HW: Tensor,
    how: FineTune,
    *,
    share: float = 1.0,
    rng: Rng,
    progress: Progress = silent,
) -> TaskVector:
    """The task vector of the scenes with the concept, less ``share`` of that of the scenes without it.

    Args:
        model: The unedited model.
        concept: Only its name is used, and only by the conditional variant.
        images_with_N3HW: Of scenes with the concept, in [0, 1].
        images_without_N3HW: Of the same scenes without it, row for row.
        how: Constants of both fine-tunes.
        share: 1 subtracts the whole of the second vector, 0 none of it.
        rng: Both fine-tunes have its draws.
        progress: Told after each step.
    """
    if len(images_with_N3HW) != len(images_without_N3HW):
        raise ValueError(
            f"expected as many images without {concept.text!r} as with it, got {len(images_without_N3HW)} and "
            f"{len(images_with_N3HW)}; the two go by pairs"
        )
    shown = fine_tune(model, concept, images_with_N3HW, how, rng=rng, progress=progress)
    if not share:
        return shown
    plain = fine_tune(model, concept, images_without_N3HW, how, rng=rng, progress=progress)
    return shown + (-share) * plain
