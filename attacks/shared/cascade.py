"""A cascade of attacks: each meets the goals that those before it did not break, by the surrogate.

As AutoAttack's (Croce and Hein, ICML 2020), whose inputs leave when they are misclassified. There the test
is exact. Here it is a judge who may err, so all finds of all stages are kept, and the judge of record sees each:

* The surrogate calls a goal broken and is wrong: it met no later stage, and counts as not broken.
  The cascade's share is too low. Fresh images before a goal may leave make that rare.
* It calls a goal unbroken and is wrong: the goal goes on. That costs time, and no find is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from attacks.shared.search import score_images
from bench.core.lazy import torch
from bench.core.stages import Stage
from bench.interfaces import Attack, Candidate, Context, Goal, Target
from bench.model.conditioning import Conditioning

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["cascade"]


def cascade(
    attacks: Sequence[Attack], target: Target, goals: Sequence[Goal], ctx: Context, *, images: int
) -> list[Candidate]:
    """The finds of every stage that each goal met, stage by stage.

    After each stage the surrogate looks at fresh images of its finds. A goal leaves when their mean
    score reaches the judge's threshold. A find that fixes its noise has one image, which the search has seen.

    Args:
        attacks: The stages, in order.
        target: The edited model; nothing of the judge of record is in it.
        goals: One or more.
        ctx: Each stage has streams of its own, below its name and place.
        images: Fresh images per find.

    Returns:
        Candidates with the ``own_score`` of the fresh look. Their ``queries`` are the images of the goal up to
        there, and their ``variant`` names the :class:`~bench.core.stages.Stage`.
    """
    left, found = list(goals), list[Candidate]()
    spent = {goal.id: 0 for goal in goals}
    for number, attack in enumerate(attacks, 1):
        if not left:
            break
        mine = ctx.child(attack.name, number)
        stage = str(Stage(number, attack.name, attack.holds.name.lower()))
        finds = attack(target, left, rng=mine.rng, progress=ctx.progress)
        for goal in left:
            spent[goal.id] += max(find.queries for find in finds if find.goal == goal.id)
        seen = [
            replace(find, own_score=score, variant=stage)
            for find, score in zip(
                finds, _own_scores(target, left, finds, mine, images), strict=True
            )
        ]
        for find in seen:
            spent[find.goal] += 0 if find.latents_Chw is not None else images
        found += [replace(find, queries=spent[find.goal]) for find in seen]
        bar = target.surrogate.threshold
        broken = {find.goal for find in seen if (find.own_score or 0.0) >= bar}
        left = [goal for goal in left if goal.id not in broken]
        ctx.progress(number, len(attacks), f"cascade: {len(left)} of {len(goals)} goals hold")
    return found


def _own_scores(
    target: Target, goals: Sequence[Goal], finds: Sequence[Candidate], ctx: Context, images: int
) -> list[float]:
    """The attacker's mean score of each find, from 0 to 1."""
    by_id = {goal.id: goal for goal in goals}
    scores = [find.own_score or 0.0 for find in finds]
    for injected in (False, True):
        rows = [
            i
            for i, find in enumerate(finds)
            if find.latents_Chw is None and (find.states_LD is not None) == injected
        ]
        if not rows:
            continue
        told = [c.repeat(images) for i in rows if (c := finds[i].conditioning) is not None]
        out = target.model.sample(
            [finds[i].prompt for i in rows for _ in range(images)],
            [ctx.seed(finds[i].goal, k, "own look") for i in rows for k in range(images)],
            target.sampler,
            conditioning=Conditioning.cat(told) if told else None,
            progress=ctx.progress,
        )
        owners = [by_id[finds[i].goal] for i in rows for _ in range(images)]
        ok = [status == "ok" for status in out.status]
        means = _means(score_images(target, owners, out.images_B3HW, ok), images)
        for i, mean in zip(rows, means, strict=True):
            scores[i] = mean
    return scores


def _means(scores_B: Tensor, images: int) -> list[float]:
    """The mean of each find's scores; an image that was refused is worth 0."""
    means: list[float] = torch.clamp(scores_B, min=0).view(-1, images).mean(1).tolist()
    return means
