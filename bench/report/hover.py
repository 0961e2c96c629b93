"""The scatter for a browser, by Bokeh: a small figure per access that says on hover what each point is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.report.plots import ACCESS_NAMES, looks, utility_range
from bench.tables.summaries import ACCESSES, ANY
from bench.tables.tables import ALL

if TYPE_CHECKING:
    from bokeh.plotting import figure

__all__ = ["bokeh_source", "colours", "figures", "renumbered"]

_HIGH = (-4, 107)
_MODEL = re.compile(r"p\d+")
_ID_KEYS = ("id", "root_id")
_SHAPES = {
    **{"o": "circle", "s": "square", "D": "diamond", "^": "triangle", "v": "inverted_triangle"},
    **{"P": "plus", "X": "x", "p": "hex", "h": "hex_dot", "*": "star"},
}
_TIPS = [
    ("method", "@method"),
    ("concept", "@concept"),
    ("broken", "@share{0.0} % [@low{0.0}, @high{0.0}]"),
    ("goals", "@broken of @goals"),
    ("luck", "@luck{0.0} %"),
    ("retained", "@retained_accuracy{0.0} %"),
]


def figures(worst: pd.DataFrame) -> list[dict[str, Any]]:
    """Figures as ``Bokeh.embed.embed_item`` takes them: the worst case, then each access that was met.

    The same lines give the same figures, whatever was drawn before. A text is shown as it is.

    Args:
        worst: Lines of :data:`~bench.tables.schema.WORST`; the judge of record's are drawn.
    """
    from bokeh.embed import json_item

    lines = worst[worst["judge"] == worst["judge"].iloc[0]] if len(worst) else worst
    lines = lines[lines["share"].notna() & lines["retained_accuracy"].notna()]
    seen = looks(list(dict.fromkeys(lines["method"])))
    percent = ["share", "low", "high", "control_share"]
    percent += ["retained_accuracy", "retained_low", "retained_high"]
    lines = lines.assign(**{name: 100 * lines[name] for name in percent})
    across = utility_range(lines)
    met = [name for name in (ANY, *ACCESSES) if name in set(lines["access"])]
    made = []
    for name in met:
        plot = _figure(lines[lines["access"] == name], seen, across)
        plot.title.text = ACCESS_NAMES[name]
        item: Any = json_item(plot, f"figure-{name}")
        made.append(renumbered(item))
    return made


def colours(worst: pd.DataFrame) -> list[tuple[str, str]]:
    """Each method with its colour, in the table's order."""
    methods = list(dict.fromkeys(worst["method"]))
    seen = looks(methods)
    return [(name, seen[name][0]) for name in methods]


def bokeh_source() -> str:
    """The JavaScript of Bokeh that draws figures: a script without any reference to elsewhere."""
    from bokeh.resources import Resources

    return "\n".join(Resources(mode="inline", components=["bokeh"], log_level="error").js_raw)


def _figure(
    lines: pd.DataFrame, seen: dict[str, tuple[str, str]], across: tuple[float, float]
) -> figure:
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.plotting import figure

    names = ["share", "low", "high", "retained_accuracy", "retained_low", "retained_high"]
    shown = lines[["method", "concept", "goals", "broken", *names]]
    pooled = shown["concept"] == ALL
    at = shown[pooled].groupby(["retained_accuracy", "share"], sort=False).cumcount()
    turns = at.reindex(shown.index, fill_value=0)
    shown = shown.assign(
        luck=lines["control_share"],
        colour=[seen[name][0] for name in shown["method"]],
        shape=[_SHAPES.get(seen[name][1], "circle") for name in shown["method"]],
        size=[_large(place) if large else 6 for place, large in zip(turns, pooled, strict=True)],
        alpha=pooled.map({True: 0.9, False: 0.45}),
    )
    shown["concept"] = shown["concept"].mask(pooled, "all concepts")
    plot = figure(
        height=300, sizing_mode="stretch_width", x_range=across, y_range=_HIGH,
        tools="pan,box_zoom,reset", active_drag=None, x_axis_label="retained accuracy, %",
        y_axis_label="goals broken, %", min_width=260,
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    source = ColumnDataSource(shown[pooled].to_dict("list"))
    line = {"source": source, "color": "colour", "alpha": 0.7}
    plot.segment("retained_accuracy", "low", "retained_accuracy", "high", **line)
    plot.segment("retained_low", "share", "retained_high", "share", **line)
    plot.scatter("retained_accuracy", "luck", marker="dash", size=10, **line)
    points = [
        plot.scatter(
            "retained_accuracy", "share", marker="shape", size="size", color="colour",
            fill_alpha=0.15, line_alpha="alpha", line_width=1.6,  # what lies below shows through
            source=ColumnDataSource(of.to_dict("list")),
        )
        for of in (shown[~pooled], shown[pooled])
    ]  # fmt: skip
    plot.add_tools(HoverTool(renderers=points, tooltips=_TIPS))
    return plot


def _large(turn: int) -> int:
    """The size of a pooled marker: those on one place become larger, so that each is seen around the last."""
    return 10 + 5 * min(turn, 4)


def renumbered(item: dict[str, Any]) -> dict[str, Any]:
    """The item with identifiers that do not say how many figures the process had drawn before."""
    names: dict[str, str] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _id(value[key]) if key in _ID_KEYS else walk(value[key]) for key in value}
        return [walk(each) for each in value] if isinstance(value, list) else value

    def _id(value: Any) -> Any:
        if isinstance(value, str) and _MODEL.fullmatch(value):
            return names.setdefault(value, f"p{len(names)}")
        return walk(value)

    return walk(item)
