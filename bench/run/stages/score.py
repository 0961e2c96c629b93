"""Looks at images that are there: a judge at a trial's, a metric at a utility cell's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.interfaces import UtilityBatch
from bench.run.cells import JudgedCell, MeasuredCell, ReferenceCell, SampleCell, TrialCell
from bench.run.contents import read_rows
from bench.run.stages.pictures import as_floats
from bench.run.stages.rows import writing
from bench.run.stages.trial import trial
from bench.run.stages.utility import reference, utility
from bench.run.stages.workspace import Workspace, Written

__all__ = ["images_of", "judged", "measured"]


def judged(work: Workspace, cell: JudgedCell) -> Written:
    """The raw scores of a judge: a row per image and label."""
    rows = read_rows(work.parent(cell, "trial", "sample"))
    ok = torch.tensor([s == "ok" for s in rows["status"].to_pylist()], dtype=torch.bool)
    labels = cell.judge.labels(cell.concept)
    scores = torch.full((len(ok), len(labels)), torch.nan)
    if bool(ok.any()):
        shown = as_floats(images_of(work, cell.trial))
        scores[ok] = cell.judge.scores(shown[ok], cell.concept).float().cpu()
    lost = ok & ~scores.isfinite().all(1)
    scores[lost] = torch.nan
    record = {"judge": cell.judge.identity(), "images": len(ok)}
    reason = "" if cell.judge.abstains else f"the score of {cell.judge.name} is not finite"
    return record, _long_form(scores.numpy(), labels, lost.numpy(), reason)


def measured(work: Workspace, cell: MeasuredCell) -> Written:
    """The raw values of a metric: a row per image that it can look at."""
    rows = read_rows(work.parent(cell, "utility", "sample"))
    prompts = [prompt for _, prompt in cell.utility.prompts]
    # A judge tells concepts: captions ask for none.
    seen = [i for i, p in enumerate(prompts) if p.concept or not cell.metric.asks_judge]
    status = np.array(rows["status"].to_pylist(), dtype=object)[seen]
    batch = UtilityBatch(
        prompts=[prompts[i].text for i in seen],
        concepts=[work.plan.concepts.get(prompts[i].concept) for i in seen],
        images_B3HW=as_floats(images_of(work, cell.utility)[seen]),
        base_images_B3HW=as_floats(images_of(work, cell.reference)[seen]),
        judge=cell.judge,
    )
    values = cell.metric.values(batch).float().cpu().numpy().astype(np.float32)
    values = np.where(status == "error", np.float32("nan"), values)
    lost = (status == "ok") & ~np.isfinite(values)
    values[lost] = np.nan
    record = {"metric": cell.metric.identity(), "images": len(status)}
    abstains = cell.judge is not None and cell.judge.abstains
    reason = "" if abstains else f"the value of {cell.metric.name} is not finite"
    return record, _long_form(values[:, None], ("",), lost, reason, images=seen)


def images_of(work: Workspace, cell: SampleCell) -> NDArray[np.uint8]:
    """The images of a cell; those that were dropped are sampled again, and have to be the same."""
    while (images := work.kept(cell)) is None:
        match cell:
            case TrialCell():
                trial(work, cell)
            case ReferenceCell():
                reference(work, cell)
            case _:
                utility(work, cell)
    return images


def _long_form(
    values_BL: NDArray[np.float32],
    labels: Sequence[str],
    lost_B: NDArray[Any],
    reason: str,
    *,
    images: Sequence[int] | None = None,
) -> Callable[[Path], None]:
    """Writes the values in long form, of all images by default.

    One that is lost is an error with its reason; without a reason, the judge abstained.
    """
    count, wide = values_BL.shape
    places = np.arange(count) if images is None else np.array(images)
    bad = lost_B.repeat(wide)
    frame = pd.DataFrame(
        {
            "image": places.astype(np.int32).repeat(wide),
            "label": list(labels) * count,
            "value": values_BL.reshape(-1).astype(np.float32),
            "status": np.where(bad, "error" if reason else "abstained", "ok"),
            "reason": np.where(bad, reason, ""),
        }
    )
    return writing(frame)
