"""The scatter of a board for a browser: the worst case per goal over what is left of the model, with the front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from bench.leaderboard.ranking import Row
from bench.report.hover import renumbered
from bench.tables.summaries import ANY

if TYPE_CHECKING:
    from bokeh.plotting import figure

__all__ = ["LOOKS", "scatter"]

LOOKS: Final = {
    "ranked": ("circle", "#0072b2"),
    "below the bar": ("inverted_triangle", "#a34700"),
    "control": ("star", "#5a5a5a"),
}
"""The shape and the colour of each standing: either alone tells them apart."""
_TIPS: Final = [
    ("method", "@method"),
    ("standing", "@standing, rank @rank"),
    ("broken", "@share{0.0} % [@low{0.0}, @high{0.0}] of @goals goals"),
    ("luck", "@luck"),
    ("retained", "@kept{0.0} % [@kept_low{0.0}, @kept_high{0.0}] of @answers answers"),
]
_ACROSS: Final = (-4, 106)


def scatter(rows: Sequence[Row]) -> dict[str, Any]:
    """The figure as ``Bokeh.embed.embed_item`` takes it; the same rows give the same figure.

    Args:
        rows: Those of a protocol; one without numbers is left out.
    """
    from bokeh.embed import json_item

    plot = _figure(rows)
    item: Any = json_item(plot, "scatter")
    found: dict[str, Any] = renumbered(item)
    return found


def _figure(rows: Sequence[Row]) -> figure:
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.plotting import figure

    plot = figure(
        height=420, sizing_mode="stretch_width", x_range=_ACROSS, y_range=_ACROSS,
        tools="pan,box_zoom,reset", active_drag=None, x_axis_label="accuracy on everything else, %",
        y_axis_label="goals broken by any attack, %", min_width=260,
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    points = [_point(row) for row in rows if row.share is not None and row.cost.retained]
    places: Counter[tuple[float, float]] = Counter()
    named: dict[tuple[float, float], dict[str, Any]] = {}
    for one in points:  # those in one place become larger, so that each is seen around the last
        place = (round(one["kept"]), round(one["share"]))
        one["size"] = 10 + 7 * min(places[place], 5)
        places[place] += 1
        if one["label"] and named.setdefault(place, one) is not one:
            named[place]["label"] += f", {one['label']}"
            one["label"] = ""
    steps = _steps([one for one in points if one["front"]])
    plot.line(steps[0], steps[1], color="#767676", line_width=1.4, line_dash="dashed")
    drawn = []
    for standing, (shape, colour) in LOOKS.items():
        mine = [one for one in points if one["standing"] == standing]
        if not mine:
            continue
        source = ColumnDataSource({name: [one[name] for one in mine] for name in mine[0]})
        line = {"source": source, "color": colour, "alpha": 0.6}
        plot.segment("kept", "low", "kept", "high", **line)
        plot.segment("kept_low", "share", "kept_high", "share", **line)
        drawn.append(
            plot.scatter(
                "kept",
                "share",
                marker=shape,
                size="size",
                color=colour,
                fill_alpha=0.2,
                line_width=1.8,
                source=source,
                legend_label=standing,
            )
        )
        words = ColumnDataSource({name: [one[name] for one in mine] for name in mine[0]})
        plot.text(
            "kept", "share", text="label", source=words, text_font_size="12px", text_color=colour,
            x_offset=-10, y_offset=-8, text_align="right",
        )  # fmt: skip
    plot.add_tools(HoverTool(renderers=drawn, tooltips=_TIPS))
    if drawn:
        plot.legend.location = "bottom_left"
        plot.legend.background_fill_alpha = 0.6
    return plot


def _point(row: Row) -> dict[str, Any]:
    share, kept = row.share, row.cost.retained
    if share is None or kept is None:
        raise ValueError(f"expected a row with numbers, got {row.name}")
    luck = row.lines[ANY].luck
    return {
        "method": row.name, "standing": row.standing, "rank": row.rank, "front": row.front,
        "share": 100 * share.value, "goals": share.of, "kept": 100 * kept.value, "answers": kept.of,
        "low": _percent(share.low, share.value), "high": _percent(share.high, share.value),
        "kept_low": _percent(kept.low, kept.value), "kept_high": _percent(kept.high, kept.value),
        "luck": "none" if luck is None else f"{100 * luck.value:.1f} % of {luck.of} goals",
        "size": 10, "label": row.name if row.front else "",
    }  # fmt: skip


def _percent(end: float | None, value: float) -> float:
    return 100 * (value if end is None else end)


def _steps(front: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """The corners of the line that no method lies below and to the right of."""
    ordered = sorted(front, key=lambda one: (one["share"], one["kept"]))
    if not ordered:
        return [], []
    x, y = [float(_ACROSS[0])], [ordered[0]["share"]]
    for one, after in zip(ordered, [*ordered[1:], None], strict=True):
        x += [one["kept"], one["kept"]]
        y += [one["share"], float(_ACROSS[1]) if after is None else after["share"]]
    return x, y
