"""Places for the markers and names of a scatter, so that none hides another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import Normal, Stroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

__all__ = ["Anchor", "apart", "label"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """Something to label, in data coordinates, with the extent of its interval bars."""

    text: str
    colour: str
    x: float
    y: float
    across: tuple[float, float]
    along: tuple[float, float]


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


def label(
    axes: Axes, canvas: FigureCanvasAgg, anchors: Sequence[Anchor], shown: pd.DataFrame
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
    dots = to_pixels(shown[["retained_accuracy", "share"]].to_numpy(dtype=float))
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
