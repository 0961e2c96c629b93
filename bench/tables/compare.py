"""How a report compares with the committed one of its suite: the lines whose intervals meet, and the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from bench.core.errors import UsageError
from bench.core.printing import print_or_refuse
from bench.tables.frames import read_table, require_columns
from bench.tables.spreadsheet import from_cell
from bench.tables.text import interval

__all__ = ["Comparison", "compare", "compared"]

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


def compared(before: Path, after: Path) -> Comparison:
    """Holds one ``table.csv`` against an earlier one of the same suite.

    Raises:
        UsageError: a file is not there, or is no table of a report.
    """
    tables = []
    for path in (before, after):
        try:
            table = read_table(path)
            require_columns(table, (*_LINE, *_RATES))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: expected a table.csv of a report, got: {error}") from error
        tables.append(table)
    old, new = tables
    return compare(new.assign(**{name: new[name].map(from_cell) for name in _LINE}), old)


def main(arguments: list[str]) -> int:
    """Prints how two tables compare; the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m bench.tables.compare BEFORE/table.csv AFTER/table.csv\n")
        return 2
    before, after = map(Path, arguments)
    return print_or_refuse(lambda: _said(compared(before, after)))


def _said(found: Comparison) -> str:
    both = found.agree + len(found.apart)
    said = f"{found.agree} of {both} lines agree within their intervals, {found.unmatched} are in one alone"
    return "\n".join([said, *(f"apart: {line}" for line in found.apart)]) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
