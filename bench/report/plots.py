"""Robustness against utility: one point a method, the strongest attack's success over what is left.

Figures are drawn on Agg through matplotlib's objects, under its default settings whatever the user
configured, and saved without dates or versions: the same table gives the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from bench.core.digest import write_atomic
from bench.tables.tables import ALL, BASE, FLOOR, worst_case

__all__ = ["INK", "MUTED", "Status", "pareto", "save", "scatter", "stamp", "style"]

Status: TypeAlias = Literal["final", "draft", "partial"]

DPI = 200
INK, MUTED = "#222222", "#6b6b6b"
# Okabe and Ito's colours without the yellow, too light on white; the shapes say the same.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7b4fa3")
_SHAPES = ("o", "s", "D", "^", "v", "P", "X", "p", "h")
_CONTROL = {BASE: ("no erasure (ceiling)", "*"), FLOOR: ("destroyed model (floor)", "X")}
_EDGE, _SHADE = "#9a9a9a", "#f6f6f6"
_WORDS = {"draft": "DRAFT", "partial": "PARTIAL"}
_APART = 12.0
"""Large markers are at least so many points from each other."""
_NAMED = 8
"""More methods than these have their names in a key beside the axes."""
_METADATA = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#ececec",
    "grid.linewidth": 0.7,
    "pdf.fonttype": 42,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's default settings with the report's own; the caller's come back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as the PNG or PDF that the path's suffix names, atomically."""
    kind = path.suffix[1:]
    if kind not in _METADATA:
        raise ValueError(f"expected a path that ends in .png or .pdf, got {path.name}")
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=_METADATA[kind])
    write_atomic(path, buffer.getvalue())


def stamp(figure: Figure, status: Status) -> None:
    """Writes across the figure what it is, unless it is final."""
    if status in _WORDS:
        mark = figure.text(0.5, 0.5, _WORDS[status], ha="center", va="center", rotation=24)
        mark.set(fontsize=64, fontweight="bold", color=INK, alpha=0.09, zorder=10, in_layout=False)


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
        figure.set_layout_engine("none")
        anchors = _large(axes, large)
        if not crowded:
            _label(axes, canvas, [*taken, *edge, *anchors], shown)
    return figure


@dataclass(frozen=True, slots=True)
class _Anchor:
    """Something to label, in data coordinates, with the extent of its interval bars."""

    text: str
    colour: str
    x: float
    y: float
    across: tuple[float, float]
    along: tuple[float, float]


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


def _bars(axes: Axes, row: Mapping[Hashable, Any], look: tuple[str, str]) -> _Anchor:
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
    return _Anchor(_CONTROL.get(name, (name,))[0], colour, x, y, across, along)


def _large(axes: Axes, points: Sequence[tuple[_Anchor, str]]) -> list[_Anchor]:
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


def apart(
    places: NDArray[np.float64], gap: float, within: tuple[float, float, float, float]
) -> NDArray[np.float64]:
    """Places at least about ``gap`` from each other: groups that are closer stand around their middle.

    Args:
        places: [N, 2].
        gap: in the unit of the places; the same places give the same result.
        within: left, bottom, right and top of where the moved ones must be.

    Returns:
        [N, 2]; a place that is near no other is unchanged.
    """
    moved = places.copy()
    for _ in range(len(places)):  # two rings may come to touch: they become one
        groups = _groups(moved, gap)
        if all(len(group) == 1 for group in groups):
            break
        for group in groups:
            if len(group) > 1:
                moved[group] = _ring(places[group].mean(axis=0), len(group), gap, within)
    return moved


def _groups(places: NDArray[np.float64], gap: float) -> list[list[int]]:
    """Indices of places that are joined by steps shorter than ``gap``."""
    near = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1)) < 0.98 * gap
    groups: list[list[int]] = []
    for i in range(len(places)):
        joined = [group for group in groups if near[i, group].any()]
        groups = [group for group in groups if group not in joined]
        groups.append(sorted([i, *(j for group in joined for j in group)]))
    return sorted(groups)


def _ring(
    middle: NDArray[np.float64], count: int, gap: float, within: tuple[float, float, float, float]
) -> NDArray[np.float64]:
    """``count`` places on a circle, ``gap`` apart, moved into the bounds as one."""
    radius = gap / (2 * math.sin(math.pi / count))
    turns = math.pi / 2 + 2 * math.pi * np.arange(count) / count
    ring = middle + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    low, high = np.array(within[:2]), np.array(within[2:])
    return (
        ring + np.clip(low - ring.min(axis=0), 0, None) - np.clip(ring.max(axis=0) - high, 0, None)
    )


def _at_edge(axes: Axes, row: Mapping[Hashable, Any]) -> _Anchor:
    """Draws a floor that lies left of the axes, on their edge."""
    x, y = axes.get_xlim()[0], row["asr"]
    axes.plot(x, y, "<", color=MUTED, ms=9, mec="white", mew=0.9, zorder=4, clip_on=False)
    text = f"{_CONTROL[FLOOR][0]}, retains {row['retained_accuracy']:.0f} %"
    return _Anchor(text, MUTED, x, y, (x, x), (y, y))


def _front(axes: Axes, pooled: pd.DataFrame) -> list[_Anchor]:
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
    taken = [_Anchor("", MUTED, left, y[0], named, (y[0], y[0] + 4.5))]
    for i in range(1, len(x)):
        taken.append(_Anchor("", MUTED, x[i - 1], y[i], (x[i - 1], x[i]), (y[i], y[i] + 0.4)))
        wide = (x[i - 1], x[i - 1] + 0.004 * (right - left))
        taken.append(_Anchor("", MUTED, x[i - 1], y[i], wide, (y[i - 1], y[i])))
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


def _label(
    axes: Axes, canvas: FigureCanvasAgg, anchors: Sequence[_Anchor], shown: pd.DataFrame
) -> None:
    """Writes each anchor's text where it covers least: greedy, over places around the anchor."""
    renderer = canvas.get_renderer()
    scale = canvas.figure.dpi / 72
    to_pixels = axes.transData.transform
    solid: list[Bbox] = []
    for anchor in anchors:
        if not anchor.text:
            solid.append(Bbox(to_pixels(list(zip(anchor.across, anchor.along, strict=True)))))
            continue
        x, y = to_pixels((anchor.x, anchor.y))
        (left, low), (right, high) = to_pixels(list(zip(anchor.across, anchor.along, strict=True)))
        solid.append(Bbox([[x - 7 * scale, y - 7 * scale], [x + 7 * scale, y + 7 * scale]]))
        solid.append(Bbox([[left, y - scale], [right, y + scale]]))
        solid.append(Bbox([[x - scale, low], [x + scale, high]]))
    dots = to_pixels(shown[["retained_accuracy", "asr"]].to_numpy(dtype=float))
    light = [Bbox.from_bounds(x - 2 * scale, y - 2 * scale, 4 * scale, 4 * scale) for x, y in dots]
    for anchor in anchors:
        if not anchor.text:
            continue
        note = axes.annotate(
            anchor.text,
            xy=(anchor.x, anchor.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            color=anchor.colour,
            fontweight="bold",
            zorder=5,
            parse_math=False,
        )
        note.set_path_effects([Stroke(linewidth=2.6, foreground="white"), Normal()])
        box = note.get_window_extent(renderer)
        places = [
            (
                math.cos(turn) * (box.width / 2 + reach * scale),
                math.sin(turn) * (box.height / 2 + reach * scale),
            )
            for reach, turn in product((10, 17, 26, 38), np.arange(16) * math.pi / 8)
        ]
        costs = [_cost(box.translated(*place), axes.bbox, solid, light) for place in places]
        # Nearer places come first, so a farther one has to be better by more than a little.
        best = int(np.argmin([cost + 3 * scale**2 * i for i, cost in enumerate(costs)]))
        dx, dy = places[best]
        note.set_position((dx / scale, dy / scale))
        solid.append(box.translated(dx, dy))
        if best >= 2 * 16:
            axes.annotate(
                "",
                xy=(anchor.x, anchor.y),
                xytext=(dx / scale, dy / scale),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": anchor.colour, "lw": 0.7, "shrinkB": 5},
            )


def _cost(box: Bbox, axes: Bbox, solid: Sequence[Bbox], light: Sequence[Bbox]) -> float:
    """How much a label would cover, in pixels; what lies outside the axes counts most."""
    covered = sum(_overlap(box, other) for other in solid)
    covered += 0.5 * sum(_overlap(box, other) for other in light)
    return covered + 20 * (box.width * box.height - _overlap(box, axes))


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0.0) * max(height, 0.0)
