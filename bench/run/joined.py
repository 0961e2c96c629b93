"""Puts scores beside the rows of the images that they are of, by the index of the image."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.core.digest import DamagedError
from bench.run.cells import JudgedCell, MeasuredCell, ScoreCell

__all__ = ["failed_rows", "lost_rows", "scored_rows"]


def scored_rows(cell: ScoreCell, images: pa.Table, scores: pa.Table) -> pa.Table:
    """The rows of a judge or a metric.

    Args:
        cell: The score.
        images: Of the cell that sampled, a row per image.
        scores: Of the score, a row per image and label.

    Returns:
        A row per image and label: the columns of ``images``, ``image``, and of a judge ``label``,
        ``score`` and ``counts``, of a metric ``value``, ``prompt``, ``prompt_concept``, ``group``.
        An image that is not ``ok`` keeps its status and reason.

    Raises:
        DamagedError: the scores are of other images.
    """
    image = scores["image"].to_numpy()
    if len(image) and not 0 <= image.min() <= image.max() < len(images):
        raise DamagedError(f"rows.parquet: expected scores of {len(images)} images, got others")
    rows = images.take(scores["image"])
    sampled = pc.equal(rows["status"], "ok")
    for name in ("status", "reason"):
        both = pc.if_else(sampled, scores[name], rows[name])
        rows = rows.set_column(rows.column_names.index(name), name, both)
    rows = rows.append_column("image", scores["image"])
    match cell:
        case JudgedCell():
            return _judged(cell, rows, scores["label"], scores["value"])
        case MeasuredCell():
            return _measured(cell, rows, scores["value"], image)
    raise TypeError(f"expected the score of a judge or a metric, got {cell.title}")


def failed_rows(cell: JudgedCell, images: pa.Table, reason: str) -> pa.Table:
    """Rows of status ``error`` for images that are there and whose score failed."""
    labels = cell.judge.labels(cell.concept)
    total = len(images) * len(labels)
    scores = pa.table(
        {
            "image": np.arange(len(images), dtype=np.int32).repeat(len(labels)),
            "label": list(labels) * len(images),
            "value": pa.nulls(total, pa.float32()),
            "status": ["error"] * total,
            "reason": [reason] * total,
        }
    )
    return scored_rows(cell, images, scores)


def lost_rows(cell: JudgedCell, reason: str) -> pa.Table:
    """Rows of status ``error`` in place of images that were never made: they are counted, not dropped."""
    trial = cell.trial
    draws = trial.attack.images_per_find(trial.images)
    owed = [(i, goal, k) for i, goal in enumerate(trial.goals) for k in range(draws)]
    several = len({goal.prompt_set for goal in trial.goals}) > 1
    images = pa.table(
        {
            "candidate": pa.array([i for i, _, _ in owed], pa.int32()),
            "draw": pa.array([k for _, _, k in owed], pa.int32()),
            "prompt_set": pa.array([g.prompt_set for _, g, _ in owed], pa.string()),
            "goal": pa.array([g.id for _, g, _ in owed], pa.string()),
            "prompt": pa.array([g.prompt for _, g, _ in owed], pa.string()),
            "variant": pa.array([g.prompt_set if several else "" for _, g, _ in owed], pa.string()),
            "image_seed": pa.array([k for _, _, k in owed], pa.int64()),
            "status": pa.array(["error"] * len(owed), pa.string()),
            "reason": pa.array([reason] * len(owed), pa.string()),
            "own_score": pa.nulls(len(owed), pa.float32()),
            "queries": pa.array([0] * len(owed), pa.int32()),
            "image_sha256": pa.array([""] * len(owed), pa.string()),
        }
    )
    return failed_rows(cell, images, reason)


def _judged(
    cell: JudgedCell, rows: pa.Table, labels: pa.ChunkedArray, scores: pa.ChunkedArray
) -> pa.Table:
    counting = pa.array(cell.judge.counts(cell.concept), pa.string())
    text = labels.cast(pa.string())
    rows = rows.append_column("label", text).append_column("score", scores)
    return rows.append_column("counts", pc.is_in(text, value_set=counting))


def _measured(
    cell: MeasuredCell, rows: pa.Table, values: pa.ChunkedArray, image: np.ndarray
) -> pa.Table:
    asked = cell.utility.prompts
    if len(image) and image.max() >= len(asked):
        raise DamagedError(f"rows.parquet: expected images of {len(asked)} prompts, got more")
    mine = [asked[i] for i in image]
    rows = rows.append_column("value", values)
    rows = rows.append_column("prompt", pa.array([p.text for _, p in mine], pa.string()))
    rows = rows.append_column("prompt_concept", pa.array([p.concept for _, p in mine], pa.string()))
    return rows.append_column("group", pa.array([group for group, _ in mine], pa.string()))
