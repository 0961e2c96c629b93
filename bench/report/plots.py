"""Robustness against utility: a point per method, the share of broken goals over what is left.

The large panel shows the worst case over all attacks. Beside it stands a panel for each access, on the same
axes. An edit that falls to embeddings alone looks different from one that falls to typed prompts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.front import draw_front, name_front, pareto
from bench.report.labels import Anchor, apart, label
from bench.report.style import DPI, INK, MUTED, Status, save, stamp, style
from bench.tables.summaries import ACCESSES, ANY
from bench.tables.tables import ALL, BASE, FLOOR

__all__ = [
    "ACCESS_NAMES",
    "Status",
    "apart",
    "looks",
    "pareto",
    "save",
    "scatter",
    "stamp",
    "style",
    "utility_range",
]

ACCESS_NAMES: Mapping[str, str] = {
    "typed": "typed prompts",
    "searched": "searched prompts",
    "embedding": "embedding",
    "latent": "latent noise",
    "weights": "weights",
    ANY: "worst case over all attacks",
}
"""What a panel of each access is called."""

# Okabe and Ito's colours without the yellow, too light on white; the shapes say the same.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7b4fa3")
_SHAPES = ("o", "s", "D", "^", "v", "P", "X", "p", "h")
_CONTROL = {BASE: ("no erasure (ceiling)", "*"), FLOOR: ("destroyed model (floor)", "X")}
_NAMED = 8
"""More methods than these have their names in a key beside the axes."""
_MANY = 28
"""More methods than these have a key below the axes, in columns, and small markers where they are."""
_COLUMNS, _LETTERS = 3, 50
"""Columns of that key, and letters of a name there."""
_PERCENT = ["share", "low", "high", "control_share"]
_PERCENT += ["retained_accuracy", "retained_low", "retained_high"]


@dataclass(frozen=True, slots=True)
class _Size:
    """How large things are drawn, in points."""

    marker: float
    star: float
    apart: float  # between the middles of large markers, at least
    bar: float
    across: float  # opacity of the intervals of what is retained


_LARGE, _SMALL = _Size(8, 13, 12.0, 1.1, 0.85), _Size(5.5, 9, 8.5, 0.7, 0.0)
"""Small panels leave out what the large one says once: the intervals of what is retained."""
_HIGH = (-4, 107)


def scatter(worst: pd.DataFrame, *, suite: str, status: Status = "final") -> Figure:
    """The share of broken goals over retained accuracy, for the judge of record.

    Small markers are single concepts; large ones pool them and carry 95 % intervals both ways. A dash is
    luck: what the controls broke. The front runs through the erasure methods: the unedited and the
    destroyed model are no contenders. A floor far to the left of everything else is shown at the edge, so
    that it does not squeeze the methods into a corner. Large markers that would hide each other stand apart,
    each with a line to its place. Where there are too many methods to write their names beside them, a key
    to the right has them, from the most robust. Of more than fit there, the key stands below in columns, and
    no marker is moved.

    Args:
        worst: Lines of :data:`~bench.tables.schema.WORST`.
        suite: Name of the suite, for the title.
        status: Stamped on the figure unless final.
    """
    judge = str(worst["judge"].iloc[0]) if len(worst) else "none"
    lines = worst[worst["judge"] == judge]
    shown = lines[lines["retained_accuracy"].notna() & lines["share"].notna()]
    shown = shown.assign(**{name: 100 * shown[name] for name in _PERCENT})
    pooled = shown[(shown["concept"] == ALL) & (shown["access"] == ANY)]
    hidden = sorted(set(lines["method"]) - set(pooled["method"]))
    seen = looks([str(name) for name in pooled["method"]])
    beside = [name for name in ACCESSES if name in set(shown["access"])]
    crowded = len(pooled) > _NAMED
    many = len(pooled) > _MANY
    across = 0 if len(beside) < 2 else 1 if len(beside) == 2 else 2
    with style():
        size = (7.2 + 2.6 * across + 2.4 * crowded, 5.8)
        if many:
            size = (max(size[0], 12.4), 6.4 + 0.16 * math.ceil(len(pooled) / _COLUMNS))
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        down = math.ceil(len(beside) / across) if across else 1
        places = figure.add_gridspec(down, 1 + across, width_ratios=[2.6] + [1] * across)
        limits = utility_range(shown)
        axes = figure.add_subplot(places[:, 0])
        axes.set_title(
            f"Robustness and utility, suite {suite}", loc="left", fontsize=11.5, parse_math=False
        )
        axes.set_title("better ↘", loc="right", fontsize=9.5, color=MUTED)
        axes.set_xlabel("Retained accuracy on prompts for other concepts (%)")
        axes.set_ylabel(f"Goals broken by at least one attack (%), judge {judge}", parse_math=False)
        main = _Panel(axes, shown[shown["access"] == ANY], seen, limits)
        taken = name_front(axes, draw_front(axes, main.contenders))
        edge, large = main.draw(_SMALL if many else _LARGE)
        small = []
        for number, name in enumerate(beside if across else []):
            of = figure.add_subplot(places[number // across, 1 + number % across])
            panel = _Panel(of, shown[shown["access"] == name], seen, limits)
            of.set_title(ACCESS_NAMES[name], loc="left", fontsize=9)
            of.tick_params(labelsize=7.5)
            draw_front(of, panel.contenders)
            small.append((of, panel.draw(_SMALL)[1]))
        _legend(figure, hidden, above=many)
        if crowded:
            _key(figure, pooled, seen, many=many)
        if not len(shown):
            axes.text(0.5, 0.5, "no rows", transform=axes.transAxes, ha="center", color=MUTED)
        stamp(figure, status)
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # "none" is an engine, for which each save draws twice
        anchors = _mark(axes, large, _SMALL if many else _LARGE, still=many)
        for of, points in small:
            _mark(of, points, _SMALL, still=many)
        if not crowded:
            label(axes, canvas, [*taken, *edge, *anchors], main.lines)
    return figure


def looks(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a shape for every method; controls are grey."""
    ranked = [name for name in methods if name not in _CONTROL]
    found = {
        name: (_COLOURS[i % len(_COLOURS)], _SHAPES[i % len(_SHAPES)])
        for i, name in enumerate(ranked)
    }
    return found | {name: (MUTED, shape) for name, (_, shape) in _CONTROL.items()}


_Point = tuple[Anchor, str]


@dataclass(frozen=True, slots=True, eq=False)
class _Panel:
    """One access on its axes: its lines in percent, and how each method looks."""

    axes: Axes
    lines: pd.DataFrame
    seen: Mapping[str, tuple[str, str]]
    limits: tuple[float, float]

    @property
    def contenders(self) -> pd.DataFrame:
        """The pooled lines of the erasure methods, on axes whose limits are set."""
        self.axes.set(xlim=self.limits, ylim=_HIGH)
        lines = self.lines[self.lines["concept"] == ALL]
        return lines[~lines["method"].isin(_CONTROL)]

    def draw(self, size: _Size) -> tuple[list[Anchor], list[_Point]]:
        """Draws concepts, luck and intervals; returns a floor at the edge, and what to mark later."""
        axes, left = self.axes, self.limits[0]
        axes.grid(visible=True)
        axes.set_axisbelow(True)
        edge: list[Anchor] = []
        large: list[_Point] = []
        for row in self.lines.to_dict("records"):
            colour, shape = self.seen.get(str(row["method"]), (MUTED, "o"))
            outside = row["retained_accuracy"] < left
            x, y = row["retained_accuracy"], row["share"]
            if row["concept"] != ALL:
                area, at = (size.marker / 2) ** 2, "<" if outside else shape
                found = axes.scatter([max(x, left)], [y], s=area, marker=at, color=colour)
                found.set(alpha=0.4, linewidths=0, clip_on=not outside)
            elif outside:
                edge.append(_at_edge(axes, row))
            else:
                luck = [row["control_share"]]
                axes.plot([x], luck, "_", color=colour, ms=1.2 * size.marker, mew=1.4, zorder=3.2)
                large.append((_bars(axes, row, colour, size), shape))
        return edge, large


def utility_range(shown: pd.DataFrame) -> tuple[float, float]:
    """The range of the horizontal axis, in the unit of the lines; a floor far to the left is outside."""
    pooled = shown[shown["concept"] == ALL]
    near = pooled.loc[pooled["method"] != FLOOR, ["retained_low", "retained_high"]]
    near = near.fillna(pooled[["retained_accuracy"]].set_axis(["retained_low"], axis=1))
    if not len(near):
        return -3.0, 103.0
    low, high = float(near["retained_low"].min()), float(near["retained_high"].max())
    span = max(high - low, 10.0)
    floor = float(pooled["retained_accuracy"].min())
    low = low if low - floor > 0.5 * span else min(low, floor)
    return max(low - 0.12 * span, -3.0), min(high + 0.12 * span, 103.0)


def _bars(axes: Axes, row: Mapping[Hashable, Any], colour: str, size: _Size) -> Anchor:
    """Draws the intervals of a method's pooled point."""
    x, y = row["retained_accuracy"], row["share"]
    across, along = (row["retained_low"], row["retained_high"]), (row["low"], row["high"])
    bars: dict[str, Any] = {"fmt": "none", "ecolor": colour, "elinewidth": size.bar}
    bars["capsize"] = 2 * size.bar
    axes.errorbar(x, y, yerr=[[y - along[0]], [along[1] - y]], alpha=0.85, **bars)
    axes.errorbar(x, y, xerr=[[x - across[0]], [across[1] - x]], alpha=size.across, **bars)
    name = str(row["method"])
    return Anchor(_CONTROL.get(name, (name,))[0], colour, x, y, across, along)


def _mark(axes: Axes, points: Sequence[_Point], size: _Size, *, still: bool) -> list[Anchor]:
    """Draws the pooled markers; those that would lie on each other are moved apart, unless all stay ``still``.

    A moved marker has a line to a dot at its true place. The layout must be settled.

    Returns:
        The points where their markers stand now.
    """
    places = np.array([[anchor.x, anchor.y] for anchor, _ in points], dtype=float).reshape(-1, 2)
    scale = DPI / 72
    pixels = axes.transData.transform(places) if len(places) else places
    gap = 0.0 if still else size.apart * scale
    moved = apart(pixels, gap, axes.bbox.padded(2 * scale).extents)
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
        ms = size.star if shape == "*" else size.marker
        axes.plot(
            x, y, shape, color=anchor.colour, ms=ms, mec="white", mew=0.9, zorder=4, clip_on=False
        )
        found.append(anchor)
    return found


def _at_edge(axes: Axes, row: Mapping[Hashable, Any]) -> Anchor:
    """Draws a floor that lies left of the axes, on their edge."""
    x, y = axes.get_xlim()[0], row["share"]
    axes.plot(x, y, "<", color=MUTED, ms=8, mec="white", mew=0.9, zorder=4, clip_on=False)
    text = f"{_CONTROL[FLOOR][0]}, retains {row['retained_accuracy']:.0f} %"
    return Anchor(text, MUTED, x, y, (x, x), (y, y))


def _legend(figure: Figure, hidden: Sequence[str], *, above: bool) -> None:
    entries: list[dict[str, Any]] = [
        {"label": "one concept", "ms": 4, "alpha": 0.5, "ls": "none"},
        {"label": "all concepts, 95 % interval", "ms": 8, "mec": "white", "ls": "none"},
        {"label": "luck: broken by a control", "marker": "_", "ms": 9, "mew": 1.4, "ls": "none"},
        {"label": "on the Pareto front", "ms": 11, "color": INK, "mfc": "none", "ls": "none"},
    ]
    handles = [Line2D([], [], **{"marker": "o", "color": MUTED, "lw": 1, **e}) for e in entries]
    if hidden:
        handles.append(Line2D([], [], ls="none", label=f"without utility: {', '.join(hidden)}"))
    legend = figure.legend(
        handles=handles,
        loc="outside upper center" if above else "outside lower center",
        ncols=2 if figure.get_figwidth() < 8 else 4,
        frameon=False,
        fontsize=9,
        handlelength=1.5,
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)


def _key(
    figure: Figure, pooled: pd.DataFrame, seen: Mapping[str, tuple[str, str]], *, many: bool
) -> None:
    """Names the large markers beside the axes or below, from the most robust to the least."""
    handles = []
    for row in pooled.sort_values(["share", "retained_accuracy"], ascending=[True, False]).to_dict(
        "records"
    ):
        name = str(row["method"])
        colour, shape = seen[name]
        said = _CONTROL.get(name, (name,))[0]
        if many and len(said) > _LETTERS:
            said = said[: _LETTERS - 1] + "…"
        text = f"{said}  {row['share']:.0f} / {row['retained_accuracy']:.0f}"
        handles.append(
            Line2D([], [], ls="none", marker=shape, color=colour, ms=7, mec="white", label=text)
        )
    legend = figure.legend(
        handles=handles,
        loc="outside lower center" if many else "outside right upper",
        ncols=_COLUMNS if many else 1,
        frameon=False,
        fontsize=8 if many else 9,
        title="broken / retained (%)",
    )
    legend.get_title().set(fontsize=9, color=MUTED)
    for entry in legend.get_texts():
        entry.set_parse_math(False)
