"""The transfer matrix: what an attack found on one method, tried on the others."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from bench.tables.schema import TRANSFER, TRIALS, check, conform
from bench.tables.tables import ALL, BASE, FLOOR, rates

__all__ = ["matrix", "ranked"]

_BY = ["judge", "line", "concept", "source", "method"]


def matrix(trials: pd.DataFrame) -> pd.DataFrame:
    """Derives the transfer table from the rows.

    Args:
        trials: Rows of :data:`~bench.tables.schema.TRIALS`; the judge that comes first is the judge
            of record.

    Returns:
        Lines of :data:`~bench.tables.schema.TRANSFER` for every attack that was transferred, none
        if none was: judge of record, pooled lines and the unedited model first.

    Raises:
        SchemaError: the frame does not have its columns.
        ValueError: the rows contradict each other.
    """
    check(trials, TRIALS)
    moved = trials["source"] != trials["method"]
    rows = trials[trials["attack"].isin(trials.loc[moved, "attack"].unique())]
    if not len(rows):
        return TRANSFER.empty()
    lines = rates(rows, _BY).rename(columns={"method": "target"})
    judges = {name: i for i, name in enumerate(trials["judge"].unique())}
    place = {name: i for i, name in enumerate(ranked([*lines["source"], *lines["target"]]))}
    keys = pd.DataFrame(
        {
            "judge": lines["judge"].map(judges),
            "attack": lines["attack"],
            "pooled": lines["concept"] != ALL,
            "concept": lines["concept"],
            "source": lines["source"].map(place),
            "target": lines["target"].map(place),
        }
    )
    order = keys.sort_values(list(keys.columns), kind="stable").index
    return conform(lines.loc[order, TRANSFER.names].reset_index(drop=True), TRANSFER)


def ranked(methods: Iterable[str]) -> list[str]:
    """Each method once: the unedited first, the destroyed last."""
    rank = {BASE: 0, FLOOR: 2}
    return sorted(set(methods), key=lambda name: (rank.get(name, 1), name))
