"""The methods that no other beats in both ways, and the line through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from bench.report.labels import Anchor
from bench.report.style import INK, MUTED

__all__ = ["draw_front", "name_front", "pareto"]

_EDGE, _SHADE = "#9a9a9a", "#f6f6f6"


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """The corners of the front, from the left edge of the axes to their top."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


def pareto(points: pd.DataFrame) -> pd.DataFrame:
    """The methods that no other beats in both ways, from the most robust to the most useful.

    Args:
        points: With the columns ``share`` (less is better) and ``retained_accuracy`` (more is).
    """
    ordered = points.sort_values(["share", "retained_accuracy"], ascending=[True, False])
    best = ordered["retained_accuracy"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["retained_accuracy"] > best]


def draw_front(axes: Axes, points: pd.DataFrame) -> _Steps | None:
    """Draws the front through the points, in percent, and shades what it beats."""
    front = pareto(points)
    if not len(front):
        return None
    x, y = front["retained_accuracy"].to_numpy(), front["share"].to_numpy()
    left, top = axes.get_xlim()[0], axes.get_ylim()[1]
    x, y = np.r_[left, x, x[-1]], np.r_[y[0], y, top]
    axes.plot(x, y, color=_EDGE, lw=1.2, drawstyle="steps-pre", zorder=1.5)
    axes.fill_between(x, y, top, color=_SHADE, lw=0, step="pre", zorder=0.5)
    return _Steps(x, y)


def name_front(axes: Axes, steps: _Steps | None) -> list[Anchor]:
    """Names the front and rings its methods; returns what not to write over."""
    if steps is None:
        return []
    x, y = steps.x, steps.y
    left, right = axes.get_xlim()
    axes.scatter(x[1:-1], y[1:-1], s=190, facecolors="none", edgecolors=INK, lw=1.0, zorder=3)
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
