"""The cost of the edits, and the choices that methods made by themselves, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd

from bench.tables.tables import ALL
from bench.tables.text import markdown_table, markdown_text

__all__ = ["costs_to_markdown"]

_COSTS = {
    "seconds": ("edit_seconds", 1),
    "peak MiB": ("edit_memory_mb", 0),
    "images sampled": ("edit_images", 0),
    "gradient steps": ("edit_gradient_steps", 0),
    "parameters changed": ("parameters_touched", 0),
}
_SHARE = "% of the model"


def costs_to_markdown(table: pd.DataFrame, edits: pd.DataFrame) -> str:
    """A section of the page: a line per method, then what the methods chose for each concept.

    Args:
        table: Lines of :data:`~bench.tables.schema.TABLE`; the pooled ones are shown.
        edits: Rows of :data:`~bench.tables.schema.EDITS`, for their notes.

    Returns:
        Markdown; empty where there are no pooled lines.
    """
    methods = table[table["concept"] == ALL].drop_duplicates("method")
    if not len(methods):
        return ""
    head = (
        "## Cost of the edits\n\nMeans over concepts and repeats, but the largest memory (of the "
        "whole process, or on a GPU of the device) and the most parameters.\n\n"
    )
    rows: list[list[str]] = []
    totals = edits.drop_duplicates("method").set_index("method")["parameters_total"]
    for row in methods.to_dict("records"):
        values = ((row[column], digits) for column, digits in _COSTS.values())
        cells = [f"{value:,.{digits}f}" if pd.notna(value) else "–" for value, digits in values]
        touched, total = row["parameters_touched"], totals.get(row["method"], 0)
        cells.append(f"{100 * touched / total:.2f}" if pd.notna(touched) and total else "–")
        rows.append([markdown_text(row["method"]), *cells])
    lines = markdown_table(["method", *_COSTS, _SHARE], rows, left=1)
    chosen = list(_chosen(edits))
    said = "\nChosen by the methods themselves:\n\n" * bool(chosen)
    return "".join([head, lines, said, *chosen, "\n"])


def _chosen(edits: pd.DataFrame) -> Iterator[str]:
    """A bullet per edit that left notes: an edit of several concepts has several rows and one bullet."""
    for row in edits.drop_duplicates("edit_digest").to_dict("records"):
        notes = json.loads(row["notes"])
        if notes:
            said = "; ".join(f"{name} {_value(value)}" for name, value in notes.items())
            yield f"- {markdown_text(row['method'])}, {markdown_text(said)}\n"


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
