"""Samples the utility prompts, unedited and edited."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.model.samples import Samples
from bench.run.cells import ReferenceCell, UtilityCell
from bench.run.plan import Plan
from bench.run.stages.drawn import drawn
from bench.run.stages.pictures import as_bytes, sums
from bench.run.stages.rows import reasons, writing
from bench.run.stages.workspace import Workspace, Written

__all__ = ["reference", "utility"]


def reference(work: Workspace, cell: ReferenceCell) -> Written:
    """The unedited model's images of the utility prompts."""
    texts, seeds = _asked(work.plan, cell)
    out = drawn(work.base, work.plan.sampler, texts, seeds, cell.draws, work.progress).all_finite()
    return _kept(work, cell, seeds, out)


def utility(work: Workspace, cell: UtilityCell) -> Written:
    """The edited model's, of the prompts and seeds of the reference."""
    texts, seeds = _asked(work.plan, cell)
    out = drawn(work.edited(cell), work.plan.sampler, texts, seeds, cell.draws, work.progress)
    return _kept(work, cell, seeds, out)


def _asked(plan: Plan, cell: ReferenceCell | UtilityCell) -> tuple[list[str], list[int]]:
    stream = plan.rng.child("utility", cell.concept.text)
    texts = [prompt.text for _, prompt in cell.prompts]
    seeds = [
        cell.draws[i].seed if i in cell.draws else stream.seed(i, text)
        for i, text in enumerate(texts)
    ]
    return texts, seeds


def _kept(
    work: Workspace, cell: ReferenceCell | UtilityCell, seeds: Sequence[int], out: Samples
) -> Written:
    pictures = as_bytes(out.images_B3HW)
    digests = sums(pictures, out.status)
    work.keep(cell, pictures, digests)
    rows = pd.DataFrame(
        {
            "image_seed": np.array(seeds, dtype=np.int64),
            "status": list(out.status),
            "reason": reasons(out.status),
            "image_sha256": digests,
        }
    )
    return {"images": len(rows)}, writing(rows)
