"""Samples the utility prompts, unedited and edited, and measures what an edit cost."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.interfaces import Metric, UtilityBatch
from bench.run.cells import ReferenceCell, UtilityCell
from bench.run.plan import Plan
from bench.run.stages.pictures import as_bytes, as_floats
from bench.run.stages.rows import reasons, with_errors
from bench.run.stages.workspace import Workspace, Written

__all__ = ["reference", "utility"]


def _utility_seeds(plan: Plan, cell: ReferenceCell | UtilityCell) -> list[int]:
    stream = plan.rng.child("utility", cell.concept.text)
    return [stream.seed(i, p.text) for i, (_, p) in enumerate(cell.prompts)]


def reference(work: Workspace, cell: ReferenceCell) -> Written:
    """The unedited model's pictures of the utility prompts."""
    texts = [p.text for _, p in cell.prompts]
    out = work.base.sample(
        texts, _utility_seeds(work.plan, cell), work.plan.sampler, progress=work.progress
    ).all_finite()
    pictures = as_bytes(out.images_B3HW)
    return {"images": len(texts)}, lambda folder: np.savez_compressed(
        folder / "pictures.npz", images=pictures
    )


def utility(work: Workspace, cell: UtilityCell) -> Written:
    """The rows of an edit's cost, one per image and metric, on the prompts and seeds of the reference."""
    plan, model = work.plan, work.edited(cell)
    with np.load(work.parent(cell, "reference").file("pictures.npz"), allow_pickle=False) as file:
        base = as_floats(file["images"])
    texts = [p.text for _, p in cell.prompts]
    seeds = _utility_seeds(plan, cell)
    out = model.sample(texts, seeds, plan.sampler, progress=work.progress)
    batch = UtilityBatch(
        prompts=texts,
        concepts=[plan.concepts[p.concept] for _, p in cell.prompts],
        images_B3HW=as_floats(as_bytes(out.images_B3HW)),
        base_images_B3HW=base,
        judge=plan.judges[0],
    )
    frame = pd.DataFrame(
        {
            "prompt": texts,
            "prompt_concept": [p.concept for _, p in cell.prompts],
            "group": [g for g, _ in cell.prompts],
            "image_seed": np.array(seeds, dtype=np.int64),
            "status": list(out.status),
            "reason": reasons(out.status),
        }
    )
    rows = pd.concat([_measured(frame, m, batch) for m in plan.metrics], ignore_index=True)
    record = {"images": len(texts), "metrics": [m.identity() for m in plan.metrics]}
    return record, lambda folder: rows.to_parquet(
        folder / "rows.parquet", compression="zstd", index=False
    )


def _measured(frame: pd.DataFrame, metric: Metric, batch: UtilityBatch) -> pd.DataFrame:
    values = metric.values(batch).float().cpu().numpy().astype(np.float32)
    values = np.where(frame["status"] == "error", np.float32("nan"), values)
    lost = (frame["status"] == "ok").to_numpy() & ~np.isfinite(values)
    values[lost] = np.nan
    frame = with_errors(frame, lost, f"the value of {metric.name} is not finite")
    return frame.assign(metric=metric.name, value=values)
