"""How the surrogate sees the images of a search, and the best of N tries by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bench.core.lazy import torch
from bench.interfaces import Candidate, Context, Goal, Target

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Best", "best_of", "noises_found", "score_images"]


class Best(NamedTuple):
    """The best of a goal's tries.

    Attributes:
        at: Its index among the tries of all goals.
        score: What the surrogate gave it, at least 0.
    """

    at: int
    score: float


def best_of(
    target: Target,
    goals: Sequence[Goal],
    prompts: Sequence[str],
    seeds: Sequence[int],
    ctx: Context,
    *,
    latents_BChw: Tensor | None = None,
) -> list[Best]:
    """Samples N tries per goal in one batch and gives the best of each goal.

    Args:
        target: The edited model and the surrogate.
        goals: At least one.
        prompts: B of them, those of a goal together, as many for each.
        seeds: One per prompt.
        ctx: Told of each step.
        latents_BChw: The initial noise; by default what the seeds give.
    """
    tries = len(prompts) // len(goals)
    out = target.model.sample(
        prompts, seeds, target.sampler, latents_BChw=latents_BChw, progress=ctx.progress
    )
    owners = [goal for goal in goals for _ in range(tries)]
    scores = score_images(target, owners, out.images_B3HW, [s == "ok" for s in out.status])
    best = scores.view(len(goals), tries).max(1)
    return [
        Best(i * tries + k, max(0.0, score))
        for i, (k, score) in enumerate(
            zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
    ]


def noises_found(
    goals: Sequence[Goal], best: Sequence[Best], noise_GChw: Tensor, queries: int
) -> list[Candidate]:
    """A candidate per goal with the noise of its best try.

    Args:
        goals: G of them.
        best: Of each goal.
        noise_GChw: Of each goal's best try; not a view of the noise of all tries, which it would keep.
        queries: Tries per goal.
    """
    return [
        Candidate(
            goal=goal.id,
            prompt=goal.prompt,
            latents_Chw=noise_Chw,
            own_score=score,
            queries=queries,
        )
        for goal, noise_Chw, (_, score) in zip(goals, noise_GChw, best, strict=True)
    ]


def score_images(target: Target, goals: list[Goal], images_B3HW: Tensor, ok: list[bool]) -> Tensor:
    """The surrogate's score of each image for its goal's concept; -1 where the model gave no image.

    A score that is not finite counts as no image: ``argmax`` takes NaN for the largest, and would
    call a broken image the best.

    Args:
        target: Holds the surrogate.
        goals: One per image.
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
