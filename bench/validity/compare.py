"""Our numbers beside the published ones: the rank correlation of each published ranking with a run of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pandas as pd

from bench.tables.tables import ALL
from bench.validity.names import FAMILIES, OURS
from bench.validity.published import Ranking
from bench.validity.ranks import LEAST, Agreement, agreement

__all__ = ["Compared", "compared"]

_PRESET: Final = "mini"


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One published ranking beside ours.

    Attributes:
        suite: Of our run.
        ranking: The published one.
        concept: Ours that it is compared with; ``all`` for all together.
        pairs: Columns ``published`` and ``ours`` by method; high means the same in both.
        agreement: Of the two columns.
    """

    suite: str
    ranking: Ranking
    concept: str
    pairs: pd.DataFrame
    agreement: Agreement


def compared(table: pd.DataFrame, found: list[Ranking]) -> Iterator[Compared]:
    """Compares a run with each published ranking that shares enough methods with it.

    Args:
        table: Lines of :data:`~bench.tables.schema.TABLE` of one suite; the judge of record stands first.
        found: The published rankings.
    """
    if not len(table):
        return
    suite = str(table["suite"].iloc[0])
    lines = table[table["judge"] == table["judge"].iloc[0]]
    kinds = lines["family"].unique()
    for ranking in found:
        family = FAMILIES.get(ranking.family)
        mine = lines[lines["family"] == (family if family in kinds else ALL)]
        if family not in kinds:
            mine = mine[mine["concept"] == ALL]
        ours = _ours(mine, ranking)
        published = ranking.of_our_methods
        both = published.index.intersection(ours.index)
        if len(both) < LEAST:
            continue
        pairs = pd.DataFrame({"published": published[both], "ours": ours[both]})
        concepts = list(dict.fromkeys(mine["concept"]))
        yield Compared(
            suite, ranking, ", ".join(concepts), pairs, agreement(pairs["published"], pairs["ours"])
        )


def _ours(lines: pd.DataFrame, ranking: Ranking) -> pd.Series:
    """The value of each of our methods, by its name."""
    if ranking.measure == "success":
        lines = lines[lines["attack"].map(_bare) == ranking.ours]
        column = "asr"
    else:
        column = "retained_accuracy"
    values = lines.groupby("method", sort=False)[column].mean().dropna()
    chosen = {}
    for name, mine in values.groupby(_bare, sort=False):
        wanted = [*OURS.get(str(name), ()), f"{name}[{_PRESET}]", mine.index[0]]
        chosen[name] = float(mine[next(label for label in wanted if label in mine.index)])
    return pd.Series(chosen, dtype=float)


def _bare(label: str) -> str:
    """The name of a plug-in in a line's label: ``uce`` of ``uce[repo-2023]``, ``p4d`` of ``p4d(goals=12)``."""
    return label.partition("(")[0].partition("[")[0]
