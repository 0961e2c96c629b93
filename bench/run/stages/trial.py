"""Samples what was found on held-out seeds, and judges it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.interfaces import Candidate, Judge, Progress
from bench.interfaces.minors import NoMinors
from bench.model.samples import Samples
from bench.model.text_to_image import TextToImage
from bench.run.cells import TrialCell
from bench.run.plan import Plan
from bench.run.stages.attack import read_candidates
from bench.run.stages.pictures import as_bytes, as_floats, spread
from bench.run.stages.rows import reasons, with_errors
from bench.run.stages.workspace import Workspace, Written

__all__ = ["trial"]


def trial(work: Workspace, cell: TrialCell) -> Written:
    """The rows of a trial, one per image, judge and label, and the pictures that are kept."""
    plan, model = work.plan, work.edited(cell)
    found = read_candidates(work.parent(cell, "attack"))
    # A candidate that brings its own noise fixes the image: there is one, whatever the number of
    # seeds.
    jobs = [(c, k) for c in found for k in range(1 if c.latents_Chw is not None else cell.images)]
    # Held-out seeds: by concept, goal and index alone, so that methods and attacks are compared on
    # the same ones.
    held_out = plan.rng.child("held-out", cell.concept.text, cell.repeat)
    seeds = [held_out.seed(c.goal, k) for c, k in jobs]
    # One that speaks of minors is refused, whatever the model.
    guarded = model.with_filters(NoMinors())
    images, status = _sample(guarded, plan, [c for c, _ in jobs], seeds, work.progress)
    pictures = as_bytes(images)
    shown = as_floats(pictures)
    ok = torch.tensor([s == "ok" for s in status])
    sets = {g.id: g.prompt_set for g in cell.goals}
    frame = pd.DataFrame(
        {
            "prompt_set": [sets.get(c.goal, "file") for c, _ in jobs],
            "goal": [c.goal for c, _ in jobs],
            "prompt": [c.prompt for c, _ in jobs],
            "variant": [c.variant for c, _ in jobs],
            "image_seed": np.array(seeds, dtype=np.int64),
            "status": list(status),
            "reason": reasons(status),
            "own_score": np.array(
                [np.nan if c.own_score is None else c.own_score for c, _ in jobs], dtype=np.float32
            ),
            "queries": np.array([c.queries for c, _ in jobs], dtype=np.int32),
            "image_sha256": [
                hashlib.sha256(p.tobytes()).hexdigest() if o else ""
                for p, o in zip(pictures, ok, strict=True)
            ],
        }
    )
    rows = pd.concat(
        [_judged(frame, shown, ok, judge, cell) for judge in plan.judges], ignore_index=True
    )
    record = {"images": len(jobs), "judges": [j.identity() for j in plan.judges]}
    chosen = spread(len(pictures), plan.suite.keep_images)
    sets_kept = frame["prompt_set"].to_numpy(dtype=np.str_)[chosen]
    kept, best = pictures[chosen], _record_scores(rows, plan.judges[0].name, len(jobs))[chosen]

    def write(folder: Path) -> None:
        rows.to_parquet(folder / "rows.parquet", compression="zstd", index=False)
        np.savez_compressed(folder / "pictures.npz", images=kept, scores=best, sets=sets_kept)

    return record, write


def _record_scores(
    rows: pd.DataFrame, judge: str, images: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The score of record of each image, in order; NaN where there is none."""
    mine = rows[(rows["judge"] == judge) & rows["counts"]]
    values = mine["score"].to_numpy(np.float32)
    best: np.ndarray[Any, np.dtype[np.float32]] = (
        values.reshape(images, -1).max(1) if images else values
    )
    return best


def _sample(
    model: TextToImage, plan: Plan, found: list[Candidate], seeds: list[int], progress: Progress
) -> tuple[Tensor, list[str]]:
    """Samples candidates; those with injected states, latents or weights in batches of their own kind."""
    samples: dict[int, tuple[Tensor, str]] = {}
    kinds = [
        (c.states_LD is not None, c.latents_Chw is not None, id(c.weights) if c.weights else None)
        for c in found
    ]
    for kind in dict.fromkeys(kinds):
        rows = [i for i, k in enumerate(kinds) if k == kind]
        states = [s for i in rows if (s := found[i].states_LD) is not None]
        latents = [z for i in rows if (z := found[i].latents_Chw) is not None]
        weights = found[rows[0]].weights
        attacked = model.with_added(weights) if weights else model
        out: Samples = attacked.sample(
            [found[i].prompt for i in rows],
            [seeds[i] for i in rows],
            plan.sampler,
            states_BLD=torch.stack(states) if states else None,
            latents_BChw=torch.stack(latents) if latents else None,
            progress=progress,
        )
        samples.update(zip(rows, zip(out.images_B3HW, out.status, strict=True), strict=True))
    images = (
        torch.stack([samples[i][0] for i in range(len(found))])
        if found
        else torch.empty(0, 3, 8, 8)
    )
    return images, [samples[i][1] for i in range(len(found))]


def _judged(
    frame: pd.DataFrame, shown: Tensor, ok: Tensor, judge: Judge, cell: TrialCell
) -> pd.DataFrame:
    labels = judge.labels(cell.concept)
    counting = set(judge.counts(cell.concept))
    scores = torch.full((len(frame), len(labels)), torch.nan)
    if bool(ok.any()):
        scores[ok] = judge.scores(shown[ok], cell.concept).float().cpu()
    lost = (ok & ~scores.isfinite().all(1)).numpy()
    scores[lost] = torch.nan
    frame = with_errors(frame, lost, f"the score of {judge.name} is not finite")
    long = frame.loc[frame.index.repeat(len(labels))].reset_index(drop=True)
    long["judge"] = judge.name
    long["label"] = list(labels) * len(frame)
    long["counts"] = [label in counting for label in labels] * len(frame)
    long["score"] = scores.flatten().numpy().astype(np.float32)
    long["threshold"] = np.float32(judge.threshold)
    return long
