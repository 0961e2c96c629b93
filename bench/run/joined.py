"""Puts scores beside the rows of the images that they are of, by the index of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bench.core.digest import DamagedError
from bench.run.cells import JudgedCell, ReferenceCell, UtilityCell

__all__ = ["Scored", "failed", "joined", "lost", "with_prompts"]

_OWN = ("status", "reason")
"""The columns that images and scores both have."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The rows of a score, with those of the images that they are of.

    Attributes:
        images: A row per image: ``status``, ``reason``, and what is known of it.
        scores: A row per image and label: ``image``, ``label``, ``value``, ``status``, ``reason``.
        counting: The labels that count; empty for a metric.
    """

    images: pa.Table
    scores: pa.Table
    counting: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuses scores of other images.

        Raises:
            DamagedError: they are.
        """
        places = self.places
        if len(places) and not 0 <= places.min() <= places.max() < len(self.images):
            raise DamagedError(
                f"rows.parquet: expected scores of {len(self.images)} images, got others"
            )

    @property
    def places(self) -> NDArray[np.int64]:
        """Which image each row is of."""
        if self.scores["image"].null_count:
            raise DamagedError("rows.parquet: expected 'image' in every row")
        return self.scores["image"].to_numpy().astype(np.int64)

    def best(self) -> NDArray[np.float32]:
        """The largest score of a label that counts, per image; NaN where there is none."""
        labels = self.scores["label"].to_pylist()
        counts = np.array([label in self.counting for label in labels], bool)
        best = np.full(len(self.images), -np.inf, np.float32)
        values = self.scores["value"].to_numpy().astype(np.float32)
        np.fmax.at(best, self.places[counts], values[counts])
        best[~np.isfinite(best)] = np.nan
        return best


def joined(parts: Sequence[Scored]) -> pa.Table:
    """The rows of several scores at once, whose tables have the same columns.

    Returns:
        A row per image and label: the columns of ``images``, ``label``, ``value`` and ``counts``. An image
        that is not ``ok`` keeps its status and reason.
    """
    scores = pa.concat_tables([part.scores.replace_schema_metadata() for part in parts])
    rows = _of_images(parts, scores)
    ok = pc.equal(rows["status"], "ok")
    every = pc.all(ok, min_count=0).as_py()
    for name in _OWN:
        both = scores[name] if every else pc.if_else(ok, scores[name], rows[name])
        rows = rows.set_column(rows.column_names.index(name), name, both)
    rows = rows.append_column("label", scores["label"]).append_column("value", scores["value"])
    return rows.append_column("counts", _counts(parts, scores["label"]))


def _of_images(parts: Sequence[Scored], scores: pa.Table) -> pa.Table:
    """The row of the image of each score."""
    tables: list[pa.Table] = []
    starts, start = [], 0
    for part in parts:
        if not tables or tables[-1] is not part.images:  # several judges see the same images
            start += len(tables[-1]) if tables else 0
            tables.append(part.images)
        starts.append(start)
    images = pa.concat_tables([table.replace_schema_metadata() for table in tables])
    sizes = [len(part.scores) for part in parts]
    places = scores["image"].to_numpy().astype(np.int64) + np.repeat(starts, sizes)
    if len(places) == len(images) and bool((places == np.arange(len(images))).all()):
        return images
    return images.combine_chunks().take(pa.array(places))


def _counts(parts: Sequence[Scored], labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each label counts for the judge and the concept of its score."""
    sets = {part.counting: 0 for part in parts}
    if len(sets) == 1:
        return pc.is_in(labels, value_set=pa.array(sorted(parts[0].counting), labels.type))
    numbers = {of: number for number, of in enumerate(sets)}
    whose = np.repeat([numbers[part.counting] for part in parts], [len(p.scores) for p in parts])
    counts = np.zeros(len(labels), bool)
    for of, number in numbers.items():
        among = pc.is_in(labels, value_set=pa.array(sorted(of), labels.type))
        counts |= (whose == number) & among.to_numpy()
    return pa.chunked_array([pa.array(counts)])


def with_prompts(cell: ReferenceCell | UtilityCell, images: pa.Table) -> pa.Table:
    """The rows of images with what they were asked for: ``prompt``, ``prompt_concept`` and ``group``.

    Raises:
        DamagedError: there are more images than prompts.
    """
    if len(images) > len(cell.prompts):
        raise DamagedError(
            f"rows.parquet: expected images of {len(cell.prompts)} prompts, got more"
        )
    mine = cell.prompts[: len(images)]
    asked = {
        "prompt": [prompt.text for _, prompt in mine],
        "prompt_concept": [prompt.concept for _, prompt in mine],
        "group": [group for group, _ in mine],
    }
    for name, texts in asked.items():
        images = images.append_column(name, pa.array(texts, pa.string()))
    return images


def failed(cell: JudgedCell, images: pa.Table, reason: str) -> Scored:
    """Rows of status ``error`` for images that are there and whose score failed."""
    labels = cell.judge.labels(cell.concept)
    total = len(images) * len(labels)
    scores = pa.table(
        {
            "image": np.arange(len(images), dtype=np.int32).repeat(len(labels)),
            "label": pa.array(list(labels) * len(images), pa.string()),
            "value": pa.nulls(total, pa.float32()),
            "status": pa.array(["error"] * total, pa.string()),
            "reason": pa.array([reason] * total, pa.string()),
        }
    )
    return Scored(images, scores, frozenset(cell.judge.counts(cell.concept)))


def lost(cell: JudgedCell, reason: str) -> Scored:
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
    return failed(cell, images, reason)
