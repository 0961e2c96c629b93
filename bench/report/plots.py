"""Robustness against utility: one point a method, the strongest attack's success over what is left."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.labels import Anchor, apart, label
from bench.report.style import DPI, INK, MUTED, Status, save, stamp, style
from bench.tables.tables import ALL, BASE, FLOOR, worst_case

__all__ = ["INK", "MUTED", "Status", "apart", "pareto", "save", "scatter", "stamp", "style"]

# Okabe and Ito's colours without the yellow, too light on white; the shapes say the same.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7b4fa3")
_SHAPES = ("o", "s", "D", "^", "v", "P", "X", "p", "h")
_CONTROL = {BASE: ("no erasure (ceiling)", "*"), FLOOR: ("destroyed model (floor)", "X")}
_EDGE, _SHADE = "#9a9a9a", "#f6f6f6"
_APART = 12.0
"""Large markers are at least so many points from each other."""
_NAMED = 8
"""More methods than these have their names in a key beside the axes."""


def pareto(points: pd.DataFrame) -> pd.DataFrame:
    """The methods that no other beats in both ways, from the most robust to the most useful.

    Args:
        points: With the columns ``asr`` (less is better) and ``retained_accuracy`` (more is).
    """
    ordered = points.sort_values(["asr", "retained_accuracy"], ascending=[True, False])
    best = ordered["retained_accuracy"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["retained_accuracy"] > best]


def scatter(table: pd.DataFrame, *, suite: str, status: Status = "final") -> Figure:
    """Worst-case attack success over retained accuracy, for the judge of record.

    Small markers are single concepts; large ones pool them and carry 95 % intervals both ways. The
    front runs through the erasure methods: the unedited and the destroyed model are no contenders.
    A floor far to the left of everything else is shown at the edge, so that it does not squeeze the
    methods into a corner. Large markers that would hide each other stand apart, each with a line to
    its place. Where there are too many methods to write their names beside them, a key
    to the right has them, from the most robust.

    Args:
        table: Lines of :data:`~bench.tables.schema.TABLE`.
        suite: Name of the suite, for the title.
        status: Stamped on the figure unless final.
    """
    judge = str(table["judge"].iloc[0]) if len(table) else "none"
    points = worst_case(table[table["judge"] == judge])
    shown = points[points["retained_accuracy"].notna()]
    percent = ["asr", "asr_low", "asr_high", "retained_accuracy", "retained_low", "retained_high"]
    shown = shown.assign(**{name: 100 * shown[name] for name in percent})
    pooled = shown[shown["concept"] == ALL]
    hidden = sorted(set(table["method"]) - set(pooled["method"]))
    looks = _looks([str(name) for name in pooled["method"]])
    with style():
        crowded = len(pooled) > _NAMED
        figure = Figure(figsize=(9.6 if crowded else 7.2, 5.4), dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(
            f"Robustness and utility, suite {suite}", loc="left", fontsize=11.5, parse_math=False
        )
        axes.set_title("better ↘", loc="right", fontsize=9.5, color=MUTED)
        axes.set_xlabel("Retained accuracy on prompts for other concepts (%)")
        axes.set_ylabel(f"Worst-case attack success rate (%), judge {judge}", parse_math=False)
        axes.grid(visible=True)
        axes.set_axisbelow(True)
        left, right = _range(shown)
        axes.set(xlim=(left, right), ylim=(-3, 103))
        taken = _front(axes, pooled[~pooled["method"].isin(_CONTROL)])
        edge, large = [], []
        for row in shown.to_dict("records"):
            look = looks.get(str(row["method"]), (MUTED, "o"))
            outside = row["retained_accuracy"] < left
            if row["concept"] != ALL and not outside:
                x, y = [row["retained_accuracy"]], [row["asr"]]
                axes.scatter(x, y, s=16, marker=look[1], color=look[0], alpha=0.4, linewidths=0)
            elif row["concept"] == ALL and outside:
                edge.append(_at_edge(axes, row))
            elif row["concept"] == ALL:
                large.append((_bars(axes, row, look), look[1]))
        _legend(figure, hidden)
        if crowded:
            _key(figure, pooled, looks)
        if not len(shown):
            axes.text(0.5, 0.5, "no rows", transform=axes.transAxes, ha="center", color=MUTED)
        stamp(figure, status)
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # "none" is an engine, for which each save draws twice
        anchors = _large(axes, large)
        if not crowded:
            label(axes, canvas, [*taken, *edge, *anchors], shown)
    return figure


def _looks(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a shape for every method; controls are grey."""
    ranked = [name for name in methods if name not in _CONTROL]
    looks = {
        name: (_COLOURS[i % len(_COLOURS)], _SHAPES[i % len(_SHAPES)])
        for i, name in enumerate(ranked)
    }
    return looks | {name: (MUTED, shape) for name, (_, shape) in _CONTROL.items()}


def _range(shown: pd.DataFrame) -> tuple[float, float]:
    """The range of the horizontal axis."""
    x = shown["retained_accuracy"]
    # Pooled points bring their interval along.
    ends = shown["retained_low"].where(shown["concept"] == ALL, x).fillna(x)
    near = ends[shown["method"] != FLOOR]
    if not len(near):
        return -3.0, 103.0
    span = max(float(near.max() - near.min()), 10.0)
    far = float(near.min() - x.min()) > 1.5 * span
    low = float(near.min() if far else x.min()) - 0.12 * span
    return max(low, -3.0), min(float(near.max()) + 0.12 * span, 103.0)


def _bars(axes: Axes, row: Mapping[Hashable, Any], look: tuple[str, str]) -> Anchor:
    """Draws the intervals of a method's pooled point."""
    x, y, colour = row["retained_accuracy"], row["asr"], look[0]
    across, along = (row["retained_low"], row["retained_high"]), (row["asr_low"], row["asr_high"])
    axes.errorbar(
        x,
        y,
        yerr=[[y - along[0]], [along[1] - y]],
        xerr=[[x - across[0]], [across[1] - x]],
        fmt="none",
        ecolor=colour,
        elinewidth=1.1,
        capsize=2.2,
        alpha=0.85,
    )
    name = str(row["method"])
    return Anchor(_CONTROL.get(name, (name,))[0], colour, x, y, across, along)


def _large(axes: Axes, points: Sequence[tuple[Anchor, str]]) -> list[Anchor]:
    """Draws the pooled markers; those that would lie on each other are moved apart.

    A moved marker has a line to a dot at its true place. The layout must be settled.

    Returns:
        The points where their markers stand now.
    """
    places = np.array([[anchor.x, anchor.y] for anchor, _ in points], dtype=float).reshape(-1, 2)
    scale = DPI / 72
    pixels = axes.transData.transform(places) if len(places) else places
    moved = apart(pixels, _APART * scale, axes.bbox.padded(4 * scale).extents)
    standing = axes.transData.inverted().transform(moved) if len(moved) else moved
    found = []
    for (anchor, shape), (x, y), far in zip(
        points, standing, np.abs(moved - pixels).max(axis=1, initial=0) > 0.5, strict=True
    ):
        if far:
            line = axes.plot([anchor.x, x], [anchor.y, y], color=anchor.colour, lw=0.9)
            line[0].set(zorder=3.5, clip_on=False)
            axes.plot(anchor.x, anchor.y, "o", color=INK, ms=2.2, zorder=4.5, clip_on=False)
            anchor = replace(anchor, x=float(x), y=float(y))
        size = 13 if shape == "*" else 8
        axes.plot(
            x, y, shape, color=anchor.colour, ms=size, mec="white", mew=0.9, zorder=4, clip_on=False
        )
        found.append(anchor)
    return found


def _at_edge(axes: Axes, row: Mapping[Hashable, Any]) -> Anchor:
    """Draws a floor that lies left of the axes, on their edge."""
    x, y = axes.get_xlim()[0], row["asr"]
    axes.plot(x, y, "<", color=MUTED, ms=9, mec="white", mew=0.9, zorder=4, clip_on=False)
    text = f"{_CONTROL[FLOOR][0]}, retains {row['retained_accuracy']:.0f} %"
    return Anchor(text, MUTED, x, y, (x, x), (y, y))


def _front(axes: Axes, pooled: pd.DataFrame) -> list[Anchor]:
    """Draws the Pareto front, shading what it beats; returns what not to write over."""
    front = pareto(pooled)
    if not len(front):
        return []
    x, y = front["retained_accuracy"].to_numpy(), front["asr"].to_numpy()
    axes.scatter(x, y, s=190, facecolors="none", edgecolors=INK, linewidths=1.0, zorder=3)
    (left, right), top = axes.get_xlim(), axes.get_ylim()[1]
    x, y = np.r_[left, x, x[-1]], np.r_[y[0], y, top]
    axes.plot(x, y, color=_EDGE, lw=1.2, drawstyle="steps-pre", zorder=1.5)
    axes.fill_between(x, y, top, color=_SHADE, lw=0, step="pre", zorder=0.5)
    axes.annotate(
        "Pareto front",
        xy=(left, y[0]),
        xytext=(5, 3),
        textcoords="offset points",
        color=MUTED,
        fontsize=9,
        fontstyle="italic",
    )
    named = (left, left + 0.17 * (right - left))
    taken = [Anchor("", MUTED, left, y[0], named, (y[0], y[0] + 4.5))]
    for i in range(1, len(x)):
        taken.append(Anchor("", MUTED, x[i - 1], y[i], (x[i - 1], x[i]), (y[i], y[i] + 0.4)))
        wide = (x[i - 1], x[i - 1] + 0.004 * (right - left))
        taken.append(Anchor("", MUTED, x[i - 1], y[i], wide, (y[i - 1], y[i])))
    return taken


def _legend(figure: Figure, hidden: Sequence[str]) -> None:
    entries: list[dict[str, Any]] = [
        {"label": "one concept", "ms": 4, "alpha": 0.5, "ls": "none"},
        {"label": "all concepts, 95 % interval", "ms": 8, "mec": "white", "ls": "none"},
        {"label": "on the Pareto front", "ms": 11, "color": INK, "mfc": "none", "ls": "none"},
    ]
    handles = [Line2D([], [], **{"marker": "o", "color": MUTED, "lw": 1, **e}) for e in entries]
    if hidden:
        handles.append(Line2D([], [], ls="none", label=f"without utility: {', '.join(hidden)}"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
        handlelength=1.5,
    )


def _key(figure: Figure, pooled: pd.DataFrame, looks: Mapping[str, tuple[str, str]]) -> None:
    """Names the large markers beside the axes, from the most robust to the least."""
    handles = []
    for row in pooled.sort_values(["asr", "retained_accuracy"], ascending=[True, False]).to_dict(
        "records"
    ):
        name = str(row["method"])
        colour, shape = looks[name]
        text = (
            f"{_CONTROL.get(name, (name,))[0]}  {row['asr']:.0f} / {row['retained_accuracy']:.0f}"
        )
        handles.append(
            Line2D([], [], ls="none", marker=shape, color=colour, ms=7, mec="white", label=text)
        )
    legend = figure.legend(
        handles=handles, loc="outside right upper", frameon=False, fontsize=9, title="attacked / retained (%)"
    )  # fmt: skip
    legend.get_title().set(fontsize=9, color=MUTED)
    for entry in legend.get_texts():
        entry.set_parse_math(False)
