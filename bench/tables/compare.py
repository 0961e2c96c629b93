"""How a report compares with the committed one of its suite: the lines whose intervals meet, and the others."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from bench.tables.spreadsheet import from_cell
from bench.tables.text import interval

__all__ = ["Comparison", "compare"]

_LINE = ["judge", "method", "concept", "attack"]
_RATES = ["asr", "asr_low", "asr_high"]


class Comparison(NamedTuple):
    """Lines of two tables that are about the same.

    Attributes:
        agree: How many agree: their intervals meet.
        apart: The lines that do not, in words.
        unmatched: Lines of one table that the other lacks.
    """

    agree: int
    apart: tuple[str, ...]
    unmatched: int


def compare(table: pd.DataFrame, committed: pd.DataFrame) -> Comparison:
    """Holds a table against a committed one, line by line.

    Intervals that meet are a weak test, of an installation and not of a method. Where they do not meet, the
    machine, the versions or the code differ by more than chance.

    Args:
        table: Lines of :data:`~bench.tables.schema.TABLE`.
        committed: The same, as ``table.csv`` has them.
    """
    old = committed.assign(**{name: committed[name].map(from_cell) for name in _LINE})
    columns = [*_LINE, *_RATES]
    both = table[columns].merge(
        old[columns], on=_LINE, how="outer", suffixes=("", "_old"), indicator=True
    )
    pairs = both[(both["_merge"] == "both") & both["asr"].notna() & both["asr_old"].notna()]
    met = (pairs["asr_low"] <= pairs["asr_high_old"]) & (pairs["asr_low_old"] <= pairs["asr_high"])
    apart = pairs[~met]
    names = apart["method"] + " / " + apart["concept"] + " / " + apart["attack"]
    now = interval(apart, *_RATES)
    then = interval(apart, *(f"{name}_old" for name in _RATES))
    said = names + ": " + now + " %, committed " + then + " %"
    return Comparison(int(met.sum()), tuple(said), int((both["_merge"] != "both").sum()))
