"""Success against budget as a figure: a panel per attack, a line per method."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.panels import panelled, settled
from bench.report.plots import looks
from bench.report.style import MUTED, Status, style
from bench.tables.text import wrapped

__all__ = ["budget_plot"]

_RECORD, _OWN = "record", "own"


def budget_plot(lines: pd.DataFrame, *, suite: str, status: Status = "final") -> Figure:
    """The success of each attack over its gradient steps, or over its images where it takes no steps.

    Solid lines are lines of the suite, by the judge of record with 95 % intervals. Dashed ones are single searches
    after each of their looks, in the attacker's own view. They say where a search stops to gain.

    Args:
        lines: Lines of :data:`~bench.tables.schema.BUDGET`.
        suite: Name of the suite, for the title.
        status: Stamped on the figure unless final.
    """
    record = lines[lines["view"] == _RECORD]
    judge = str(record["judge"].iloc[0]) if len(record) else ""
    shown = lines[(lines["view"] == _OWN) | (lines["judge"] == judge)]
    panels = list(dict.fromkeys(zip(shown["attack"], shown["view"], strict=True)))
    seen = looks(list(dict.fromkeys(shown["method"])))
    with style():
        figure, places = panelled(
            f"Success against budget, suite {suite}", len(panels), across=3, size=(2.9, 2.5), one_x=False
        )  # fmt: skip
        for axes, (attack, view) in zip(places, panels, strict=True):
            mine = shown[(shown["attack"] == attack) & (shown["view"] == view)]
            _panel(axes, mine, seen)
            said = f"judge {judge}" if view == _RECORD else "own view"
            axes.set_title(
                f"{wrapped(attack, 34)}\n{said}", loc="left", fontsize=9, parse_math=False
            )
        figure.supylabel("success (%)", fontsize=9.5)
        return settled(figure, _key(seen, set(shown["method"])), status)


def _panel(axes: Axes, lines: pd.DataFrame, seen: dict[str, tuple[str, str]]) -> None:
    """Draws the methods under one attack."""
    by_steps = len(set(lines["steps"].fillna(0))) > 1
    own = lines["view"].iloc[0] == _OWN
    axes.grid(visible=True)
    axes.set(ylim=(-3, 103))
    axes.tick_params(labelsize=8)
    axes.set_xlabel("gradient steps per goal" if by_steps else "images per goal", fontsize=8.5)
    for method, line in lines.groupby("method", sort=False):
        ordered = line.sort_values("look" if own else "steps" if by_steps else "images")
        x = ordered["steps" if by_steps else "images"].to_numpy(float)
        y, low, high = (100 * ordered[name].to_numpy(float) for name in ("share", "low", "high"))
        colour, shape = seen[str(method)]
        drawn = axes.plot(x, y, "--" if own else "-", color=colour, lw=1.3, alpha=0.9)
        drawn[0].set(marker=shape, markersize=3.5, markevery=max(1, len(x) // 8))
        if not own:
            axes.vlines(x, low, high, color=colour, lw=0.9, alpha=0.6)
    axes.set_xlim(left=0)


def _key(seen: dict[str, tuple[str, str]], shown: set[str]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, marker=shape, ms=4, label=wrapped(name, 26))
        for name, (colour, shape) in seen.items()
        if name in shown
    ]
    return [
        *handles,
        Line2D([], [], color=MUTED, ls="-", label="lines of the suite, 95 %"),
        Line2D([], [], color=MUTED, ls="--", label="one search, own view"),
    ]
