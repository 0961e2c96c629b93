"""Reads the values of metrics that compare sets: a row per value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from bench.core.digest import DamagedError
from bench.core.files import expanded
from bench.run.cells import ComparedCell
from bench.run.stages.labels import HIGH, IMAGES, LOW, REFERENCES

__all__ = ["distance_rows"]


def distance_rows(cell: ComparedCell, rows: pa.Table) -> Iterator[dict[str, Any]]:
    """The columns of ``DISTANCES`` that the cell's values fill, a row per value.

    Args:
        cell: Of the metric.
        rows: As it was stored.

    Raises:
        DamagedError: a value lacks.
    """
    metric = cell.metric
    told = {row["label"]: row for row in rows.to_pylist()}
    wanted = [name + end for name in metric.columns for end in ("", LOW, HIGH)]
    if lacking := [name for name in (*wanted, IMAGES, REFERENCES) if name not in told]:
        raise DamagedError(f"rows.parquet: expected a row {lacking[0]!r}, got none")
    for name in metric.columns:
        yield {
            "metric": cell.by,
            "column": name,
            "higher_is_better": metric.higher_is_better,
            "against": expanded(metric.real).name if metric.real else "base",
            "value": told[name]["value"],
            "low": told[name + LOW]["value"],
            "high": told[name + HIGH]["value"],
            "images": int(told[IMAGES]["value"]),
            "references": int(told[REFERENCES]["value"]),
            "status": told[name]["status"],
            "reason": told[name]["reason"],
            "edit_digest": cell.utility.parents["edit"],
            "utility_digest": cell.utility.digest,
        }
