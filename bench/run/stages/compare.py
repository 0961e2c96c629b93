"""Compares the images of a utility cell with others, each as a set."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.run.cells import ComparedCell
from bench.run.contents import read_rows
from bench.run.stages.labels import HIGH, IMAGES, LOW, REFERENCES
from bench.run.stages.rows import writing
from bench.run.stages.vectors import of_cell, of_folder
from bench.run.stages.workspace import Workspace, Written
from bench.toolkit.resamples import draws, estimated

__all__ = ["compared"]


def compared(work: Workspace, cell: ComparedCell) -> Written:
    """The values of a set metric: a row per value, bound and number of images."""
    metric = cell.metric
    status = read_rows(work.parent(cell, "utility", "sample"))["status"].to_pylist()
    ok = np.array([s == "ok" for s in status], dtype=bool)
    prompts = [prompt.text for _, prompt in cell.utility.prompts]
    features = metric.features()
    edited = of_cell(work, cell.utility, features)[ok].astype(np.float64)
    units = [prompt for prompt, kept in zip(prompts, ok, strict=True) if kept]
    rng = np.random.default_rng(0)  # the same rows give the same bounds
    mine = draws(units, metric.resamples, rng)
    if metric.real:
        other = of_folder(work, metric.real, features).astype(np.float64)
        counts = mine, draws(range(len(other)), metric.resamples, rng)
    else:
        # The pairs of what there is: an image that was refused takes its partner along.
        other = of_cell(work, cell.reference, features)[ok].astype(np.float64)
        counts = mine, mine
    rows: list[tuple[str, float, str, str]] = []
    there = len(edited) > 0 and len(other) > 0
    found = metric.values(edited, other, counts, paired=not metric.real) if there else {}
    for name in metric.columns:
        of = found.get(name, np.full(1, np.nan))
        one = estimated(of, least=metric.least, most=metric.most)
        lost = not np.isfinite(one.value)
        told = (
            ("error", f"{name} cannot be worked out of {len(edited)} images")
            if lost
            else ("ok", "")
        )
        rows += [(name, one.value, *told), (name + LOW, one.low, "ok", "")]
        rows += [(name + HIGH, one.high, "ok", "")]
    rows += [(IMAGES, float(len(edited)), "ok", ""), (REFERENCES, float(len(other)), "ok", "")]
    frame = pd.DataFrame(rows, columns=["label", "value", "status", "reason"])
    frame["value"] = frame["value"].astype(np.float64)
    frame.insert(0, "image", np.zeros(len(frame), np.int32))
    return {"metric": metric.identity(), "images": len(status)}, writing(frame)
