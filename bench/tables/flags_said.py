"""The raised flags for people: what a suite raises on every method is said once, of the suite."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Group
from rich.text import Text

from bench.tables.tables import BASE, FLOOR
from bench.tables.text import markdown_text

__all__ = ["console_flags", "flags_to_markdown"]

_NAMES_SHOWN = 6
_FLAGS_SHOWN = 3
_ACROSS = 80
_RESULT = ["method", "concept", "attack", "flag"]


def flags_to_markdown(flags: pd.DataFrame, methods: Sequence[str]) -> str:
    """The raised flags for a page, by flag and method; every one is in flags.csv.

    Args:
        flags: Lines of :data:`~bench.tables.schema.FLAGS`.
        methods: Every method of the suite.
    """
    if not len(flags):
        return "No flags are raised.\n"
    everywhere = _everywhere(flags, methods)
    said = flags["method"].mask(flags["flag"].isin(everywhere), "every method")
    rows = _grouped(flags.assign(said=said))
    more = rows["names_in_all"] - _NAMES_SHOWN
    rows["names"] += (" and " + more.astype("str") + " more").where(more > 0, "")
    shown = rows[["flag", "said", "results", "names"]].map(markdown_text).agg(" | ".join, axis=1)
    return (
        "| flag | method | results | where |\n| --- | --- | --: | --- |\n"
        + ("| " + shown + " |\n").sum()
    )


def console_flags(flags: pd.DataFrame, methods: Sequence[str]) -> Group:
    """The flags that matter most, for a terminal of 80 columns.

    Those come first that say that a number is wrong, then those that say how far it carries. A flag on
    controls alone is as it should be, and is only named.

    Args:
        flags: Lines of :data:`~bench.tables.schema.FLAGS`, in their order.
        methods: Every method of the suite.
    """
    if not len(flags):
        return Group(Text("no flags raised", style="dim"))
    everywhere = _everywhere(flags, methods)
    rows = _grouped(flags.assign(said=flags["method"]))
    mine = rows[~rows["said"].isin((BASE, FLOOR)) & ~rows["flag"].isin(everywhere)]
    shown = list(dict.fromkeys(mine["flag"]))[:_FLAGS_SHOWN]
    lines = []
    for name in shown:
        found = mine[mine["flag"] == name].sort_values("results", ascending=False, kind="stable")
        each = [f"{m} ({n})" for m, n in zip(found["said"], found["results"], strict=True)]
        lines.append(Text(_fitted(f"{name}: ", each)))
    for name in everywhere:
        results = int(rows.loc[rows["flag"] == name, "results"].sum())
        lines.append(Text(f"{name}: the suite as a whole, every method ({results})"))
    rest = [name for name in dict.fromkeys(rows["flag"]) if name not in (*shown, *everywhere)]
    about = "flags, and on how many results: docs/flags.md, flags.csv"
    lines.append(Text(f"{about}{'; also ' + ', '.join(rest) if rest else ''}", style="dim"))
    return Group(*lines)


def _everywhere(flags: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    """The flags that are raised on every method, where there are several."""
    on = flags.groupby("flag", sort=False)["method"].agg(set)
    every = set(methods)
    return [str(name) for name, having in on.items() if len(every) > 1 and having >= every]


def _grouped(flags: pd.DataFrame) -> pd.DataFrame:
    """One row per (flag, said): how many results, and the names of the first few."""
    names = flags["concept"] + (": " + flags["attack"]).where(flags["attack"] != "", "")
    rows = flags.assign(names=names).drop_duplicates(_RESULT)
    by = rows.groupby(["flag", "said"], sort=False)
    once = rows.drop_duplicates(["flag", "said", "names"]).groupby(["flag", "said"], sort=False)
    return pd.DataFrame(
        {
            "results": by["names"].agg("size"),
            "names": once["names"].agg(lambda some: "; ".join(some.iloc[:_NAMES_SHOWN])),
            "names_in_all": once["names"].agg("size"),
        }
    ).reset_index()


def _fitted(head: str, parts: Sequence[str]) -> str:
    """As many parts as one line has room for, and how many more there are."""
    for count in range(len(parts), 0, -1):
        left = len(parts) - count
        line = head + ", ".join(parts[:count]) + (f", and {left} more" if left else "")
        if len(line) <= _ACROSS:
            return line
    return f"{head}{len(parts)} methods"
