"""Figures of small panels side by side, with a key beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report.style import DPI, Status, stamp

__all__ = ["panelled", "settled"]


def panelled(
    title: str, count: int, *, across: int, size: tuple[float, float], one_x: bool
) -> tuple[Figure, list[Axes]]:
    """A figure with its title, and the axes of its panels; to be called within the style.

    Args:
        title: Shown as it is.
        count: Panels; places that are left over in the last row are empty.
        across: The most panels in a row.
        size: Width and height of a panel, in inches.
        one_x: Whether all panels share their horizontal axis, as they do the vertical one.
    """
    across = min(across, max(count, 1))
    down = math.ceil(count / across) or 1
    wide, high = size
    figure = Figure(
        figsize=(max(wide * across, 5.2) + 2.6, high * down + 0.9), dpi=DPI, layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, parse_math=False)
    axes = list(figure.subplots(down, across, squeeze=False, sharex=one_x, sharey=True).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def settled(figure: Figure, handles: Sequence[Line2D], status: Status) -> Figure:
    """The figure with its key and stamp, laid out once: it would move a little each time it is saved."""
    if handles:
        legend = figure.legend(
            handles=handles, loc="outside right upper", frameon=False, fontsize=8.5
        )
        for entry in legend.get_texts():
            entry.set_parse_math(False)
    stamp(figure, status)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # "none" is an engine, for which each save draws twice
    return figure
