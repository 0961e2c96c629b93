"""Samples what was found on held-out seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.interfaces import Candidate, Progress
from bench.interfaces.minors import NoMinors
from bench.model.conditioning import Conditioning
from bench.model.samples import Samples
from bench.model.text_to_image import TextToImage
from bench.run.cells import TrialCell
from bench.run.plan import Plan
from bench.run.stages.attack import read_candidates
from bench.run.stages.drawn import Way, sampled_by, way_of
from bench.run.stages.pictures import as_bytes, spread, sums, thumbnails
from bench.run.stages.rows import reasons, writing
from bench.run.stages.workspace import Workspace, Written

__all__ = ["trial"]


def trial(work: Workspace, cell: TrialCell) -> Written:
    """The images of a trial: a row per image, in order, and thumbnails of some."""
    plan, model = work.plan, work.edited(cell)
    found = read_candidates(work.parent(cell, "attack"))
    # A candidate that brings its own noise fixes the image: there is one, whatever the number of
    # seeds.
    jobs = [
        (i, k)
        for i, c in enumerate(found)
        for k in range(1 if c.latents_Chw is not None else cell.images)
    ]
    tried = [found[i] for i, _ in jobs]
    # Held-out seeds: by concept, goal and index alone, so that methods and attacks are compared on
    # the same ones.
    held_out = plan.rng.child("held-out", cell.concept.text, cell.repeat)
    draws = [cell.draws.get(c.goal) for c in tried]
    seeds = [
        held_out.seed(found[i].goal, k) if draw is None else draw.seed
        for (i, k), draw in zip(jobs, draws, strict=True)
    ]
    # One that speaks of minors is refused, whatever the model.
    guarded = model.with_filters(NoMinors())
    ways = [way_of(draw) for draw in draws]
    images, status = _sample(guarded, plan, tried, seeds, ways, work.progress)
    pictures = as_bytes(images)
    digests = sums(pictures, status)
    work.keep(cell, pictures, digests)
    sets = {g.id: g.prompt_set for g in cell.goals}
    rows = pd.DataFrame(
        {
            "candidate": np.array([i for i, _ in jobs], dtype=np.int32),
            "draw": np.array([k for _, k in jobs], dtype=np.int32),
            "prompt_set": [sets.get(c.goal, "file") for c in tried],
            "goal": [c.goal for c in tried],
            "prompt": [c.prompt for c in tried],
            "variant": [c.variant for c in tried],
            "image_seed": np.array(seeds, dtype=np.int64),
            "status": list(status),
            "reason": reasons(status),
            "own_score": np.array(
                [np.nan if c.own_score is None else c.own_score for c in tried], dtype=np.float32
            ),
            "queries": np.array([c.queries for c in tried], dtype=np.int32),
            "image_sha256": digests,
        }
    )
    chosen = spread(len(pictures), plan.suite.keep_images)
    shown = thumbnails(pictures[chosen])

    def write(folder: Path) -> None:
        writing(rows)(folder)
        places = np.array(chosen, dtype=np.int32)
        np.savez_compressed(folder / "pictures.npz", images=shown, places=places)

    return {"images": len(jobs)}, write


def _sample(
    model: TextToImage,
    plan: Plan,
    found: list[Candidate],
    seeds: list[int],
    ways: list[Way],
    progress: Progress,
) -> tuple[Tensor, list[str]]:
    """Samples candidates; those with injected states, latents, starts or weights in batches of their own kind."""
    samples: dict[int, tuple[Tensor, str]] = {}
    kinds = [
        (
            c.states_LD is not None,
            c.pooled_D is not None,
            c.latents_Chw is not None,
            c.start,
            id(c.weights) if c.weights else None,
            way,
        )
        for c, way in zip(found, ways, strict=True)
    ]
    for kind in dict.fromkeys(kinds):
        rows = [i for i, k in enumerate(kinds) if k == kind]
        told = [c for i in rows if (c := found[i].conditioning) is not None]
        latents = [z for i in rows if (z := found[i].latents_Chw) is not None]
        weights = found[rows[0]].weights
        attacked = model.with_added(weights) if weights else model
        attacked, sampler = sampled_by(attacked, plan.sampler, kind[-1])
        out: Samples = attacked.sample(
            [found[i].prompt for i in rows],
            [seeds[i] for i in rows],
            sampler,
            conditioning=Conditioning.cat(told) if told else None,
            latents_BChw=torch.stack(latents) if latents else None,
            start=found[rows[0]].start,
            progress=progress,
        )
        samples.update(zip(rows, zip(out.images_B3HW, out.status, strict=True), strict=True))
    images = (
        torch.stack([samples[i][0] for i in range(len(found))])
        if found
        else torch.empty(0, 3, 8, 8)
    )
    return images, [samples[i][1] for i in range(len(found))]
