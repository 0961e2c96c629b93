"""The board for machines and for papers: CSV with every number and its denominator, and a LaTeX table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.leaderboard.entry import Protocol
from bench.leaderboard.fields import Rate
from bench.leaderboard.ranking import Row
from bench.leaderboard.said import mean, rate
from bench.tables.spreadsheet import as_csv
from bench.tables.summaries import ACCESSES, ANY
from bench.tables.text import latex_text, slug

__all__ = ["board_csv", "board_latex"]


def board_csv(rows: Sequence[Row], protocol: Protocol) -> bytes:
    """The board in CSV: a line per method, a column per number, its bounds and its denominator."""
    return as_csv(pd.DataFrame([_flat(row, protocol) for row in rows]))


def board_latex(rows: Sequence[Row], protocol: Protocol, *, bar: float) -> str:
    """The board in LaTeX; it needs the package booktabs.

    Args:
        rows: In their order.
        protocol: Named in the caption.
        bar: Of utility, named in the caption.
    """
    met = [name for name in ACCESSES if any(name in row.lines for row in rows)]
    cells = pd.DataFrame(
        [
            {
                "rank": row.rank,
                "method": row.name,
                "worst per goal": rate(row.share).text,
                "luck": rate(row.lines[ANY].luck if ANY in row.lines else None).text,
                **{n: rate(row.lines[n].share if n in row.lines else None).text for n in met},
                "retained": rate(row.cost.retained).text,
                "s per edit": mean(row.cost.seconds, 1).text,
            }
            for row in rows
        ]
    ).map(latex_text)
    cells.columns = pd.Index([latex_text(name) for name in cells.columns])
    text: str = cells.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="rl" + "r" * (len(cells.columns) - 2),
        caption=(
            "Share of goals that at least one attack broke, in percent with 95\\,\\% interval and the number of "
            f"goals; protocol {latex_text(protocol.name)}, judge {latex_text(protocol.judge)}. Ranked are methods "
            f"that keep {100 * bar:.0f}\\,\\% of the unedited model's accuracy."
        ),
        label=f"tab:{slug(protocol.name)}",
        position_float="centering",
    )
    return text


def _flat(row: Row, protocol: Protocol) -> dict[str, Any]:
    entry, cost = row.entry, row.cost
    flat: dict[str, Any] = {
        "protocol": protocol.name, "method": row.name, "rank_best": row.best or None,
        "rank_last": row.last or None, "standing": row.standing, "pareto_front": row.front,
    }  # fmt: skip
    for access in (ANY, *ACCESSES):
        line = row.lines.get(access)
        name = "worst" if access == ANY else access
        flat |= _ends(name, line.share if line else None, "goals")
        flat[f"{name}_broken"] = line.broken if line else None
        flat |= _ends(f"{name}_luck", line.luck if line else None, "goals")
    flat |= _ends("retained", cost.retained, "answers")
    flat |= {
        "retained_ratio": cost.ratio, "edit_seconds": cost.seconds.value,
        "edits": cost.seconds.of, "parameters_touched": cost.parameters_touched,
        "unreliable": entry.unreliable or "", "paper": entry.method.paper.paper,
        "commit": entry.run.commit, "run": entry.run.folder,
        "trials_sha256": entry.run.files.get("trials.parquet", ""),
    }  # fmt: skip
    return flat


def _ends(name: str, found: Rate | None, unit: str) -> dict[str, Any]:
    names = (name, f"{name}_low", f"{name}_high", f"{name}_{unit}")
    values = (None,) * 4 if found is None else (found.value, found.low, found.high, found.of)
    return dict(zip(names, values, strict=True))
