"""The rank correlations as a figure: a line per published ranking, beside what published tables reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.report.style import DPI, INK, MUTED, style
from bench.tables.text import wrapped
from bench.validity.compare import Compared

__all__ = ["UTILITY", "forest"]

UTILITY: Final = "utility"
_COLOURS: Final = ("#3465a4", "#c05f00", "#2f7d32", "#8a3ab9")


def forest(found: Sequence[Compared], ceilings: Mapping[str, float]) -> Figure:
    """A panel per attack and one for utility: each published ranking with its interval.

    Args:
        found: The comparisons, of one suite or several; a suite has its colour.
        ceilings: The median correlation of published tables with each other, by attack; ``utility`` for utility.
    """
    panels: dict[str, list[Compared]] = {}
    for one in found:
        panels.setdefault(one.ranking.ours or UTILITY, []).append(one)
    suites = list(dict.fromkeys(one.suite for one in found))
    colours = {suite: _COLOURS[i % len(_COLOURS)] for i, suite in enumerate(suites)}
    heights = [len(mine) + 1 for mine in panels.values()] or [1]
    with style():
        figure = Figure(
            figsize=(8.4, 0.29 * sum(heights) + 0.42 * len(heights) + 0.9),
            dpi=DPI, layout="constrained",
        )  # fmt: skip
        FigureCanvasAgg(figure)
        figure.suptitle(
            "Rank correlation of published results with ours", x=0.01, ha="left", fontsize=11.5
        )
        axes = figure.subplots(len(heights), 1, squeeze=False, sharex=True, height_ratios=heights)
        for panel, (name, mine) in zip(axes[:, 0], panels.items(), strict=False):
            _panel(panel, mine, colours, ceilings.get(name))
            panel.set_title(name, loc="left", fontsize=9.5, parse_math=False)
        axes[-1, 0].set_xlabel(
            "Spearman's rho with its 95 % interval (dashed: the median among published tables)"
        )
        if len(suites) > 1:
            for suite, colour in colours.items():
                axes[0, 0].plot([], [], "o", color=colour, label=suite)
            figure.legend(loc="outside lower left", ncols=len(suites), frameon=False, fontsize=8.5)
    return figure


def _panel(
    axes: Axes, mine: Sequence[Compared], colours: Mapping[str, str], ceiling: float | None
) -> None:
    axes.axvline(0, color=MUTED, lw=0.8)
    if ceiling is not None:
        axes.axvline(ceiling, color=INK, lw=0.9, ls=(0, (4, 3)))
    for y, one in enumerate(mine):
        found, colour = one.agreement, colours[one.suite]
        axes.plot([found.low, found.high], [y, y], color=colour, lw=1.3, solid_capstyle="butt")
        axes.plot(found.rho, y, "o", color=colour, ms=5)
    axes.set_yticks(range(len(mine)), [_label(one) for one in mine], fontsize=7.5, parse_math=False)
    axes.set_ylim(len(mine) - 0.4, -0.6)
    axes.set_xlim(-1.03, 1.03)


def _label(one: Compared) -> str:
    ranking = one.ranking
    said = ranking.attack or ranking.metric
    source = ranking.source.partition(" (")[0]
    concept = ranking.concept.replace("_", " ")
    return wrapped(f"{source}: {concept}, {said} (n = {one.agreement.n})", 74)
