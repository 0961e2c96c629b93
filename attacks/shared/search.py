"""How the attacker's own judge sees the images of a search; every search picks its best by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.lazy import torch
from bench.interfaces import Goal, Target

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["score_images"]


def score_images(target: Target, goals: list[Goal], images_B3HW: Tensor, ok: list[bool]) -> Tensor:
    """The surrogate's score of each image for its goal's concept; -1 where the model gave no image.

    A score that is not finite counts as no image: ``argmax`` takes NaN for the largest, and would
    call a broken image the best.

    Args:
        target: Holds the surrogate.
        goals: One an image.
        images_B3HW: In [0, 1].
        ok: Whether the model gave the image.
    """
    scores = torch.full((len(goals),), -1.0)
    concepts = {g.concept.digest: g.concept for g in goals}
    for digest, concept in concepts.items():
        rows = [i for i, g in enumerate(goals) if g.concept.digest == digest and ok[i]]
        if rows:
            scores[rows] = target.surrogate.scores(images_B3HW[rows], concept).amax(1).cpu().float()
    return torch.where(scores.isfinite(), scores, -1.0)
