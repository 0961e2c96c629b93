"""The order of a protocol's entries: by the worst case per goal, among those that keep enough of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import pandas as pd

from bench.leaderboard.entry import Entry
from bench.leaderboard.fields import Rate
from bench.leaderboard.lines import AccessLine, Cost
from bench.report.front import pareto
from bench.tables.flags import COLLAPSED
from bench.tables.summaries import ANY
from bench.tables.tables import ALL, BASE

__all__ = ["BAR", "Row", "Standing", "rows_of"]

BAR: Final = COLLAPSED
"""The least share of the unedited model's accuracy that a ranked method keeps, by default.

A destroyed model withstands every attack, so a rank needs a bar. It is the line below which the flag
``utility_collapse`` calls an edit collapsed: one line for both, so that a flag and a rank never disagree.
"""
Standing = Literal["ranked", "below the bar", "control", "not measured"]
_ORDER: Final = {"ranked": 0, "below the bar": 1, "not measured": 2, "control": 3}


@dataclass(frozen=True, slots=True)
class Row:
    """A method's line on the board, pooled over concepts, by the judge of record.

    Attributes:
        entry: Its entry.
        lines: Its lines by access; ``any`` is the worst case.
        cost: What it cost the rest of the model.
        standing: Whether it is ranked, and if not, why.
        best: The best rank that its interval allows, from 1; 0 where it has none.
        last: The last one that it allows.
        front: No other method, a control aside, beats it both in robustness and in utility.
    """

    entry: Entry
    lines: Mapping[str, AccessLine]
    cost: Cost
    standing: Standing
    best: int = 0
    last: int = 0
    front: bool = False

    @property
    def name(self) -> str:
        """The method's line in the tables."""
        return self.entry.method.name

    @property
    def share(self) -> Rate | None:
        """The share of goals that any attack broke."""
        return self.lines[ANY].share if ANY in self.lines else None

    @property
    def rank(self) -> str:
        """Its rank, or the ranks between which the intervals cannot decide; a dash without one."""
        if not self.best:
            return "–"
        return str(self.best) if self.best == self.last else f"{self.best}–{self.last}"


def rows_of(entries: Sequence[Entry], *, bar: float = BAR) -> list[Row]:
    """The rows of a protocol: ranked ones first, the most robust first, controls last.

    A rank counts those that are more robust for certain, by intervals that do not overlap. Where they do, the ranks
    between which they cannot decide are given.

    Args:
        entries: Of one protocol.
        bar: The least share of the unedited model's accuracy that a ranked method keeps.
    """
    rows = [_row(entry, bar) for entry in entries]
    ranked = [row for row in rows if row.standing == "ranked"]
    front = _front([row for row in rows if row.standing in ("ranked", "below the bar")])
    rows = [replace(row, front=row.name in front) for row in rows]
    rows = [_ranked(row, ranked) if row.standing == "ranked" else row for row in rows]
    return sorted(rows, key=_place)


def _row(entry: Entry, bar: float) -> Row:
    pooled = [
        line
        for line in entry.measured.worst
        if line.judge == entry.measured.worst[0].judge and line.concept == ALL
    ]
    cost = next(cost for cost in entry.measured.costs if cost.concept == ALL)
    lines = {line.access: line for line in pooled}
    return Row(entry, lines, cost, _standing(entry, lines, cost, bar))


def _standing(entry: Entry, lines: Mapping[str, AccessLine], cost: Cost, bar: float) -> Standing:
    if entry.method.control:
        return "control"
    if ANY not in lines or lines[ANY].share is None or cost.ratio is None:
        return "not measured"
    return "ranked" if cost.ratio >= bar else "below the bar"


def _ranked(row: Row, ranked: Sequence[Row]) -> Row:
    low, high = _ends(row)
    better = sum(_ends(other)[1] < low for other in ranked)
    worse = sum(high < _ends(other)[0] for other in ranked)
    return replace(row, best=1 + better, last=len(ranked) - worse)


def _ends(row: Row) -> tuple[float, float]:
    """The interval of the worst case; the value itself where there is none."""
    share = row.share
    if share is None:
        return 0.0, 1.0
    low, high = share.low, share.high
    return share.value if low is None else low, share.value if high is None else high


def _front(rows: Sequence[Row]) -> set[str]:
    points = pd.DataFrame(
        [
            (row.name, row.share.value, row.cost.retained.value)
            for row in rows
            if row.share is not None and row.cost.retained is not None
        ],
        columns=["method", "share", "retained_accuracy"],
    )
    # Of several in one place the front has one, and none of them beats another.
    same = points.merge(pareto(points)[["share", "retained_accuracy"]].drop_duplicates())
    return set(same["method"])


def _place(row: Row) -> tuple[int, float, float, int, str]:
    share = 2.0 if row.share is None else row.share.value
    kept = 0.0 if row.cost.retained is None else row.cost.retained.value
    return _ORDER[row.standing], share, -kept, row.name != BASE, row.name
