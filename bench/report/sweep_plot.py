"""The threshold sweep as a figure: a panel per method, a line per attack."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.panels import panelled, settled
from bench.report.plots import looks
from bench.report.style import INK, MUTED, Status, style
from bench.tables.sweep import SUITE
from bench.tables.text import wrapped

__all__ = ["sweep_plot"]

_DASHES = ("-", "--", ":", "-.")
"""Of the suite's own labels, then of each other set."""


def sweep_plot(
    lines: pd.DataFrame, *, threshold: float, suite: str, status: Status = "final"
) -> Figure:
    """The success of each attack over the judge's threshold, for the judge of record.

    Args:
        lines: Lines of :data:`~bench.tables.schema.SWEEP`.
        threshold: The suite's own, which is marked.
        suite: Name of the suite, for the title.
        status: Stamped on the figure unless final.
    """
    judge = str(lines["judge"].iloc[0]) if len(lines) else "none"
    shown = lines[lines["judge"] == judge]
    methods = list(dict.fromkeys(shown["method"]))
    attacks = list(dict.fromkeys(shown["attack"]))
    seen = {name: look for name, look in looks(attacks).items() if name in attacks}
    dashes = {
        name: _DASHES[i % len(_DASHES)] for i, name in enumerate(dict.fromkeys(shown["labels"]))
    }
    with style():
        title = f"Success over the judge's threshold, suite {suite}, judge {judge}"
        across = max(4, math.isqrt(len(methods)))
        figure, places = panelled(title, len(methods), across=across, size=(2.6, 2.3), one_x=True)
        for axes, method in zip(places, methods, strict=True):
            axes.tick_params(labelbottom=True)
            _panel(axes, shown[shown["method"] == method], seen, dashes)
            axes.set_title(wrapped(method, 28), loc="left", fontsize=9, parse_math=False)
            axes.axvline(threshold, color=INK, lw=0.8, ls=(0, (2, 2)), zorder=1)
        figure.supxlabel(f"threshold (dotted: the suite's own, {threshold:g})", fontsize=9.5)
        figure.supylabel("attack success (%)", fontsize=9.5)
        handles = [
            Line2D([], [], color=colour, marker=shape, ms=4, label=name)
            for name, (colour, shape) in seen.items()
        ]
        if len(dashes) > 1:
            handles += [
                Line2D([], [], color=MUTED, ls=ls, label=_said(name)) for name, ls in dashes.items()
            ]
        return settled(figure, handles, status)


def _said(name: str) -> str:
    return "labels of the suite" if name == SUITE else f"labels {name}"


def _panel(
    axes: Axes, lines: pd.DataFrame, seen: dict[str, tuple[str, str]], dashes: dict[str, str]
) -> None:
    """Draws the attacks on one method; the intervals are in the table."""
    axes.grid(visible=True)
    axes.set(xlim=(0, 1), ylim=(-3, 103))
    axes.tick_params(labelsize=8)
    for key, line in lines.groupby(["attack", "labels"], sort=False):
        attack, labels = map(str, key)
        width = 1.4 if labels == SUITE else 0.9
        y = 100 * line["asr"].to_numpy()
        (colour, shape), every = seen[attack], (list(seen).index(attack) % 4, 4)
        drawn = axes.plot(line["threshold"], y, dashes[labels], color=colour, lw=width, alpha=0.9)
        drawn[0].set(marker=shape, markersize=3.5, markevery=every)
