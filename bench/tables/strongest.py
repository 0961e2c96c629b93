"""The highest success of each access against each edit, over the concepts and attacks of several reports.

    python -m bench.tables.strongest results/mini-access results/mini-full

prints the table of docs/attacks.md. An edit falls to an access where one attack of it, which is no control,
brings one concept back.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.core.errors import UsageError
from bench.core.printing import print_or_refuse
from bench.tables.frames import read_table, require_columns
from bench.tables.schema import ACCESS
from bench.tables.tables import ALL, BASE, FLOOR
from bench.tables.text import markdown_table

__all__ = ["strongest", "strongest_to_markdown"]

_NEEDED = ("judge", "method", "concept", "attack", "access", "control", "asr")


def strongest(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The highest success on any one concept, a row per method, a column per access, weakest first.

    Args:
        tables: Lines of :data:`~bench.tables.schema.TABLE`, a frame per report. Of each, the judge of record
            (its first) is read.

    Returns:
        Success in [0, 1], indexed by method in the order of the reports; NaN where no attack of the access was
        run. The unedited model and the destroyed one are left out.

    Raises:
        UsageError: a table lacks a column, or has no lines.
    """
    found = list[pd.DataFrame]()
    for table in tables:
        require_columns(table, _NEEDED)
        if table.empty:
            raise UsageError("expected a table.csv of a report, got one without lines")
        own = table["judge"] == table["judge"].iloc[0]
        found.append(table[own & ~table["control"].astype(bool) & (table["concept"] != ALL)])
    lines = pd.concat(found, ignore_index=True)
    lines = lines[~lines["method"].isin((BASE, FLOOR))]
    best = lines.pivot_table(index="method", columns="access", values="asr", aggfunc="max")
    return best.reindex(index=lines["method"].unique(), columns=list(ACCESS))


def strongest_to_markdown(best: pd.DataFrame) -> str:
    """A table for people, in percent."""
    rows = [
        [f"`{method}`", *("–" if pd.isna(value) else f"{value:.0%}".rstrip("%") for value in row)]
        for method, *row in best.itertuples(name=None)
    ]
    return markdown_table(["edit", *best.columns], rows, left=1)


def main(arguments: list[str]) -> int:
    """Prints the table of the reports in the given folders; the exit code."""
    if not arguments:
        sys.stderr.write("usage: python -m bench.tables.strongest FOLDER_OF_A_REPORT...\n")
        return 2
    places = [Path(folder) / "table.csv" for folder in arguments]
    return print_or_refuse(lambda: strongest_to_markdown(strongest([*map(read_table, places)])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
