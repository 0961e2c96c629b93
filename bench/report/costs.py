"""What the edits cost, and what methods chose by themselves, as a person reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pandas as pd

from bench.report.text import markdown_text

__all__ = ["costs_to_markdown"]

_HEAD = (
    "| method | seconds | memory, MB | parameters changed | images | gradient steps |\n"
    "| --- | --: | --: | --: | --: | --: |\n"
)


def costs_to_markdown(edits: pd.DataFrame) -> str:
    """A table, a line a method: means over its edits, the largest memory; then the methods' own choices.

    Args:
        edits: Rows of :data:`~bench.report.schema.EDITS`; an edit of several concepts has a row each.

    Returns:
        Markdown; empty where there are no edits.
    """
    if edits.empty:
        return ""
    once = edits.drop_duplicates("edit_digest")
    lines = []
    for method, rows in once.groupby("method", sort=False):
        changed = (rows["parameters_touched"] / rows["parameters_total"]).mean()
        cells = [
            markdown_text(method),
            _number(rows["seconds"].mean(), 1),
            _number(rows["peak_memory_mb"].max(), 0),
            f"{rows['parameters_touched'].mean():,.0f} ({100 * changed:.2f} %)",
            f"{rows['images'].mean():,.0f}",
            f"{rows['gradient_steps'].mean():,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    chosen = list(_chosen(once))
    said = "\nChosen by the methods themselves:\n\n" * bool(chosen)
    return _HEAD + "".join(lines) + said + "".join(chosen)


def _number(value: float, digits: int) -> str:
    return "–" if pd.isna(value) else f"{value:,.{digits}f}"


def _chosen(edits: pd.DataFrame) -> Iterator[str]:
    """A bullet an edit that left notes."""
    for row in edits.itertuples():
        notes = json.loads(str(row.notes))
        if notes:
            said = "; ".join(f"{name} {_value(value)}" for name, value in notes.items())
            yield f"- {markdown_text(row.method)}, {markdown_text(row.concept)}: {markdown_text(said)}\n"


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
