"""Numbers of a card as people read them: in percent, with the interval, and what they are a share of."""

from __future__ import annotations

import math

from bench.core.characters import visible
from bench.leaderboard.fields import Mean, Rate
from bench.report.html_tables import Cell
from bench.tables.text import NONE

__all__ = ["count", "mean", "plain", "rate", "text"]


def rate(found: Rate | None) -> Cell:
    """``75 [59, 86] of 36``, sorted by the share."""
    if found is None:
        return Cell(NONE, "-1", number=True)
    ends = [_percent(end) for end in (found.low, found.high)]
    between = "" if NONE in ends else f" [{ends[0]}, {ends[1]}]"
    said = f"{_percent(found.value)}{between} of {found.of}"
    return Cell(said, f"{found.value:.6g}", number=True)


def mean(found: Mean | None, digits: int, *, percent: bool = False) -> Cell:
    """``0.914 of 216``, sorted by the mean.

    Args:
        found: The mean; a dash without one.
        digits: After the point.
        percent: It is a share, shown in percent.
    """
    if found is None:
        return Cell(NONE, "-1", number=True)
    value = 100 * found.value if percent else found.value
    return Cell(f"{value:.{digits}f} of {found.of}", f"{found.value:.6g}", number=True)


def plain(value: float | None, digits: int) -> Cell:
    """A number without a denominator: a ratio, a size."""
    if value is None or math.isnan(value):
        return Cell(NONE, "-1", number=True)
    return Cell(f"{value:,.{digits}f}", f"{value:.6g}", number=True)


def count(value: int) -> Cell:
    """A whole number."""
    return Cell(f"{value:,}", str(value), number=True)


def text(value: object) -> Cell:
    """A text, in which nothing is hidden."""
    return Cell(visible(str(value)))


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.0f}"
