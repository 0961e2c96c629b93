"""Samples images of published rows again, with the edited model on the same seeds, and has them judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.core.lazy import torch
from bench.core.progress import silent
from bench.interfaces import UtilityBatch
from bench.interfaces.minors import NoMinors
from bench.leaderboard.resampled import Resampled
from bench.leaderboard.tensors import Tensors
from bench.run.cells import JudgedCell, MeasuredCell, TrialCell
from bench.run.plan import Plan

if TYPE_CHECKING:
    from bench.model.text_to_image import TextToImage

__all__ = ["candidates_again", "utility_again"]


def candidates_again(
    rows: pd.DataFrame,
    cell: JudgedCell,
    plan: Plan,
    model: TextToImage,
    tensors: Tensors,
    out: Resampled,
) -> None:
    """Samples candidates of one trial again, and notes how they compare.

    Args:
        rows: Of these candidates by the judge of the cell.
        cell: Whose rows they are.
        plan: Gives the sampler.
        model: The edited one.
        tensors: What candidates hold beside a prompt.
        out: Where the outcome is noted.
    """
    from bench.model.conditioning import Conditioning
    from bench.run.stages.drawn import sampled_by, way_of
    from bench.run.stages.pictures import as_bytes, as_floats, sums

    trial, judge = cell.trial, cell.judge
    labels, counts = judge.labels(cell.concept), frozenset(judge.counts(cell.concept))
    for group in _alike(
        rows.drop_duplicates(["candidate", "draw"]).to_dict("records"), trial, tensors
    ):
        held = [tensors.of(trial, row["candidate"]) for row in group]
        states = [s for s, _ in held if s is not None]
        latents = [z for _, z in held if z is not None]
        way = way_of(trial.draws.get(group[0]["goal"]))
        attacked, sampler = sampled_by(model.with_filters(NoMinors()), plan.sampler, way)
        found = attacked.sample(
            [row["prompt"] for row in group],
            [int(row["image_seed"]) for row in group],
            sampler,
            conditioning=Conditioning(torch.stack(states)) if states else None,
            latents_BChw=torch.stack(latents) if latents else None,
            start=tensors.start(trial, group[0]["candidate"]),
        )
        pictures = as_bytes(found.images_B3HW)
        shas = sums(pictures, found.status)
        scores = judge.scores(as_floats(pictures), cell.concept).float().cpu().tolist()
        for row, sha, status, score in zip(group, shas, found.status, scores, strict=True):
            mine = rows[(rows["candidate"] == row["candidate"]) & (rows["draw"] == row["draw"])]
            stored = dict(zip(mine["label"], mine["score"].astype(float), strict=True))
            out.note(
                f"{trial.title} / {row['goal']}",
                (row["status"], stored),
                (status, dict(zip(labels, score, strict=True))),
                counts=counts,
                threshold=judge.threshold,
                same_bytes=sha == row["image_sha256"],
            )


def utility_again(
    rows: pd.DataFrame,
    cell: MeasuredCell,
    places: Sequence[int],
    plan: Plan,
    model: TextToImage,
    out: Resampled,
) -> None:
    """Samples utility images of one edit again, and notes how the judge of record sees them.

    Args:
        rows: Of the cell's metric, which asks that judge alone.
        cell: Whose rows they are.
        places: Which of its prompts.
        plan: Gives sampler, seeds and judge.
        model: The edited one.
        out: Where the outcome is noted.
    """
    from bench.run.stages.drawn import drawn
    from bench.run.stages.pictures import as_bytes, as_floats

    utility, judge = cell.utility, plan.judges[0]
    stream = plan.rng.child("utility", cell.concept.text)
    prompts = [utility.prompts[place][1] for place in places]
    draws = {i: utility.draws[p] for i, p in enumerate(places) if p in utility.draws}
    seeds = [
        draws[i].seed if i in draws else stream.seed(place, prompt.text)
        for i, (place, prompt) in enumerate(zip(places, prompts, strict=True))
    ]
    texts = [prompt.text for prompt in prompts]
    found = drawn(model, plan.sampler, texts, seeds, draws, silent)
    shown = as_floats(as_bytes(found.images_B3HW))
    values = cell.metric.values(
        UtilityBatch(
            prompts=texts,
            concepts=[plan.concepts.get(prompt.concept) for prompt in prompts],
            images_B3HW=shown,
            base_images_B3HW=shown,  # it asks the judge, and looks at no other image
            judge=judge,
        )
    )
    threshold = cell.metric.threshold(judge)
    for text, seed, status, value in zip(texts, seeds, found.status, values.tolist(), strict=True):
        row = rows[(rows["prompt"] == text) & (rows["image_seed"] == seed)].iloc[0]
        out.note(
            f"{cell.title} / {text}",
            (str(row["status"]), {"value": float(row["value"])}),
            (status, {"value": value}),
            counts=frozenset({"value"}),
            threshold=judge.threshold if threshold is None else threshold,
            same_bytes=True,
        )


def _alike(images: Sequence[Any], trial: TrialCell, tensors: Tensors) -> Iterator[list[Any]]:
    """The images in groups that one call can sample."""
    groups: dict[Any, list[Any]] = {}
    for row in images:
        states, latents = tensors.of(trial, row["candidate"])
        draw = trial.draws.get(row["goal"])
        start = tensors.start(trial, row["candidate"])
        key = (states is None, latents is None, start, draw and (draw.guidance, draw.negative))
        groups.setdefault(key, []).append(row)
    yield from groups.values()
