"""The worst case as people read it: a line per method, in Markdown and in a terminal."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench.tables.summaries import ACCESSES, ANY
from bench.tables.tables import ALL
from bench.tables.text import fixed, interval, markdown_table, markdown_text, wrapped
from bench.tables.worst import headline

__all__ = [
    "by_access",
    "console_worst",
    "goals_said",
    "headline_cells",
    "repeats_said",
    "worst_to_markdown",
]

_LINE = ["judge", "concept", "method"]
_RATES = ("share", "low", "high")
_ACROSS = 80
_SHOWN = {"typed": "typed", "searched": "sear-\nched", "embedding": "embed-\nding"}
"""The accesses that a terminal has room for, as their columns are headed."""


def worst_to_markdown(worst: pd.DataFrame) -> str:
    """A line per judge, concept and method: each access, the worst case with luck beside it, the cost.

    Args:
        worst: Lines of :data:`~bench.tables.schema.WORST`.

    Returns:
        A Markdown table; accesses that no attack of these lines has are left out.
    """
    if not len(worst):
        return "No rows.\n"
    cells = headline_cells(worst)
    rows = [[*map(markdown_text, row)] for row in cells.to_numpy().tolist()]
    left = sum(name in _LINE for name in cells)
    return markdown_table(map(markdown_text, cells), rows, left=left)


def headline_cells(worst: pd.DataFrame) -> pd.DataFrame:
    """The cells that a page shows, all text; judge and concept are left out where there is one."""
    by = by_access(worst)
    last = by[ANY]
    cells = pd.DataFrame(index=last.index)
    for name in (name for name in ACCESSES if name in by):
        cells[f"{name} %"] = interval(by[name], *_RATES)
    cells["worst per goal %"] = interval(last, *_RATES)
    cells["luck %"] = interval(last, "control_share", "control_low", "control_high")
    cells["goals"] = fixed(last["goals"], 0)
    cells["retained %"] = interval(last, "retained_accuracy", "retained_low", "retained_high")
    cells["edit s"] = fixed(last["edit_seconds"], 1)
    alike = [name for name in ("judge", "concept") if len(set(worst[name])) == 1]
    return cells.reset_index().drop(columns=alike).replace({"concept": {ALL: "all concepts"}})


def repeats_said(table: pd.DataFrame) -> str:
    """How often each edit was made, and so what the intervals tell; empty without lines.

    Args:
        table: Lines of :data:`~bench.tables.schema.TABLE`.
    """
    if not len(table):
        return ""
    times = int(table["repeats"].max())
    if times == 1:
        return "Each edit was made once. No interval says how another training of it would do."
    return f"Each edit was made {times} times. The intervals take in how far these are apart."


def goals_said(worst: pd.DataFrame) -> str:
    """How many goals stand behind the pooled lines of each access; of most methods, where they differ."""
    lines = headline(worst)
    most = [
        (name, int(lines.loc[lines["access"] == name, "goals"].mode().iloc[-1]))
        for name in (*ACCESSES, ANY)
        if name in set(lines["access"])
    ]
    said = [f"{'worst' if name == ANY else name} {goals}" for name, goals in most]
    return f"goals: {', '.join(said)}" if said else ""


def console_worst(worst: pd.DataFrame) -> Group:
    """One line per method for a terminal of 80 columns, pooled over concepts, by the judge of record."""
    lines = headline(worst)
    if not len(lines):
        return Group(Text("no rows"))
    by = by_access(lines)
    last = by[ANY]
    none = pd.Series(float("nan"), last.index)
    shares = {name: by[name]["share"] if name in by else none for name in _SHOWN}
    cells = {
        **{head: fixed(100 * shares[name], 0) for name, head in _SHOWN.items()},
        "worst\nper goal": interval(last, *_RATES),
        "luck": fixed(100 * last["control_share"], 0),
        "re-\ntained": fixed(100 * last["retained_accuracy"], 0),
        "edit\ns": fixed(last["edit_seconds"], 1),
    }
    page = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    room = _ACROSS - sum(1 + _widest(name, values) for name, values in cells.items())
    page.add_column("method", no_wrap=True, vertical="bottom")
    for name in cells:
        page.add_column(Text(name), justify="right", no_wrap=True, vertical="bottom")
    for (_, _, method), row in zip(
        last.index, pd.DataFrame(cells).to_numpy().tolist(), strict=True
    ):
        page.add_row(Text(wrapped(str(method), room)), *map(Text, row))
    said = "% of goals broken by any attack [95 %]; luck: by a control; judge "
    about = f"{said}{lines['judge'].iloc[0]}\n{goals_said(worst)}"
    return Group(page, Text(about, style="dim"))


def _widest(head: str, values: pd.Series) -> int:
    return max(int(values.str.len().max()), *map(len, [*head.split("\n"), ""]))


def by_access(lines: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The lines of each access that has some, indexed by judge, concept and method, in one order."""
    index = pd.MultiIndex.from_frame(lines[_LINE].drop_duplicates())
    return {
        str(access): group.set_index(_LINE).reindex(index)
        for access, group in lines.groupby("access", sort=False)
    }
