"""The transfer matrix as a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.report.style import DPI, INK, MUTED, Status, stamp, style
from bench.tables.tables import ALL
from bench.tables.text import wrapped
from bench.tables.transfer import ranked

__all__ = ["heat_map"]

# One hue from light to dark: it reads the same without colour vision, and in print.
_COLOURS, _EMPTY = "Blues", "#e9e4de"
_SIDE, _LETTER, _ROW = 0.56, 0.072, 0.15  # of a cell, a letter, a line of text, in inches
_WRAP, _ACROSS = 20, 2


def heat_map(table: pd.DataFrame, *, suite: str, status: Status = "final") -> Figure:
    """One matrix per attack, for the judge of record and all concepts: rows found on, columns tried on.

    The outlined diagonal is the ordinary attack. A cell without a single image that counts is
    marked with a dash.

    Args:
        table: Lines of :data:`~bench.tables.schema.TRANSFER`.
        suite: Name of the suite, for the title.
        status: Stamped on the figure unless final.
    """
    judge = str(table["judge"].iloc[0]) if len(table) else "none"
    pooled = table[(table["judge"] == judge) & (table["concept"] == ALL)]
    attacks = list(dict.fromkeys(pooled["attack"]))
    methods = ranked([*pooled["source"], *pooled["target"]])
    names = [wrapped(name, _WRAP) for name in methods]
    longest = max((len(part) for name in names for part in name.split("\n")), default=0)
    wide = max(len(methods), 3) * _SIDE + longest * _LETTER + 0.5
    high = max(len(methods), 3) * _SIDE + longest * _LETTER * 0.75 + 0.8
    across = min(_ACROSS, max(len(attacks), 1))
    down = math.ceil(len(attacks) / across) or 1
    with style():
        size = (max(across * wide + 0.9, 4.4), down * high + 0.5)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(
            f"Transfer of attacks, suite {suite}, judge {judge}",
            x=0.02, ha="left", fontsize=11.5, parse_math=False,
        )  # fmt: skip
        panels = figure.subplots(down, across, squeeze=False).flat
        shown: Any = None
        for axes, attack in zip(panels, [*attacks, *[""] * (down * across)], strict=False):
            if not attack:
                axes.set_axis_off()
                continue
            lines = pooled[pooled["attack"] == attack]
            shown = _panel(axes, lines, attack, methods, names)
        if shown is None:
            figure.text(0.5, 0.5, "no rows", ha="center", color=MUTED)
        else:
            bar = figure.colorbar(shown, ax=figure.axes, shrink=0.8 / down, pad=0.02)
            bar.set_label("Attack success rate (%)")
            bar.outline.set_visible(False)
        stamp(figure, status)
        # Laid out once: it would move a little each time it is saved.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # "none" is an engine, for which each save draws twice
    return figure


def _panel(
    axes: Axes, lines: pd.DataFrame, attack: str, methods: Sequence[str], names: Sequence[str]
) -> Any:
    """One attack's matrix; returns what the colour bar is for."""
    found = dict(zip(zip(lines["source"], lines["target"], strict=True), lines["asr"], strict=True))
    rates_ST = np.array([[100 * found.get((s, t), math.nan) for t in methods] for s in methods])
    image = axes.imshow(rates_ST, cmap=_COLOURS, vmin=0, vmax=100)
    axes.set_facecolor(_EMPTY)
    axes.set_title(attack, loc="left", fontsize=10, parse_math=False)
    axes.set_xlabel("tried on")
    axes.set_ylabel("found on")
    places = range(len(methods))
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(parse_math=False, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in ((r, c) for r in places for c in places):
        value = float(rates_ST[row, column])
        text = "–" if math.isnan(value) else f"{value:.0f}"
        colour = "white" if value > 55 else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=colour)
        if row == column:
            box = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=INK, lw=1.4)
            axes.add_patch(box)
            box.set_clip_on(False)
    return image
