"""Output of the commands: text for people, JSON for machines."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

from bench.core.characters import HIDDEN
from bench.core.terminal import Terminal

if TYPE_CHECKING:
    import pandas as pd

    from bench.publish import Published

__all__ = ["compared_of", "err", "out", "print_json", "rows_of", "show"]

_LINES_APART = 5
out = Terminal()
err = Terminal(stderr=True)


def show(report: Published) -> None:
    """Prints a line per method, the flags that matter most, the folder and what is missing."""
    from bench.report.place import RUN_PAGE, listed
    from bench.tables.flags_said import console_flags
    from bench.tables.headline import console_worst

    out.print(console_worst(report.worst))
    out.print(console_flags(report.flags, list(report.table["method"].unique())))
    more = len(listed(report.folder)) - 1
    out.print(f"report: {report.folder / RUN_PAGE} and {more} files beside it", soft_wrap=True)
    if report.compared is not None:
        there, found = report.compared
        both = found.agree + len(found.apart)
        said = f"compared with {there}: {found.agree} of {both} lines agree within their intervals"
        lacking = f", {found.unmatched} are in one alone" if found.unmatched else ""
        out.print(said + lacking, soft_wrap=True)
        for line in found.apart[:_LINES_APART]:
            out.print(f"  apart: {line}", soft_wrap=True)
        if len(found.apart) > _LINES_APART:
            out.print(f"  and {len(found.apart) - _LINES_APART} more")
    for lost in report.found.errors:
        out.print(f"errors: {lost}", soft_wrap=True)
    if missing := report.found.missing:
        out.print(f"{len(missing)} cells are not computed yet: run the suite")


def compared_of(report: Published) -> dict[str, Any] | None:
    """Returns how a report compares with the committed one, as JSON has it."""
    if report.compared is None:
        return None
    there, found = report.compared
    return {"with": str(there), **found._asdict(), "apart": list(found.apart)}


def rows_of(table: pd.DataFrame) -> Any:
    """Returns the lines of a table as JSON has them."""
    return json.loads(table.to_json(orient="records"))


def print_json(value: Any) -> None:
    """Prints a value as JSON that steers no terminal."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    # Controls above ASCII and marks of direction are no news to JSON, but they are to a terminal.
    sys.stdout.write(HIDDEN.sub(_as_json, text) + "\n")


def _as_json(found: re.Match[str]) -> str:
    return found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1]
