"""The rule that chooses a method's preset from a suite of settings, applied to the suite's table.

    python -m bench.tables.choose results/mini-dev

Of a method's settings, those within both bars (success by the plain name, accuracy retained) compete
by what they retain. Where none is, the one that misses least is chosen. Only the plain prompt and utility
are read: a preset must not be chosen by the attack that will judge it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from bench.core.digest import write_atomic
from bench.core.errors import UsageError
from bench.core.printing import print_or_refuse
from bench.tables.frames import read_table, require_columns
from bench.tables.tables import ALL, BASE, FLOOR
from bench.tables.text import markdown_table, markdown_text

__all__ = ["KEPT", "SHOWN", "choices", "choices_to_markdown"]

SHOWN, KEPT = 0.10, 0.85
"""The bars: largest success by name, smallest accuracy relative to the unedited model."""

_BY_NAME = "prompts/name"
_NEEDED = ("judge", "method", "concept", "attack", "asr", "retained_accuracy")


def choices(table: pd.DataFrame) -> pd.DataFrame:
    """Every setting with its rank among the settings of its method.

    Args:
        table: Lines of :data:`~bench.tables.schema.TABLE`; the pooled ones of the judge of record
            are read. A method's settings are the labels that begin with its name.

    Returns:
        ``method, setting, asr, retained, misses_by, chosen``; ``misses_by`` is the sum of what is
        missing to both bars. Ties go to the setting with less success, then to the shorter label,
        which is the one with fewer changes.

    Raises:
        UsageError: the table lacks a column, or has no line of the plain name over all concepts.
    """
    require_columns(table, _NEEDED)
    plain = table["attack"].isin((_BY_NAME, "prompts"))
    lines = table[plain & (table["concept"] == ALL) & (table["judge"] == table["judge"].iloc[0])]
    lines = lines[~lines["method"].isin((BASE, FLOOR))]
    if lines.empty:
        raise UsageError(
            f"expected lines of {_BY_NAME} over all concepts, got none: run the suite whole"
        )
    found = pd.DataFrame(
        {
            "method": lines["method"].str.partition("[")[0].str.partition("(")[0],
            "setting": lines["method"],
            "asr": lines["asr"].astype(float),
            "retained": lines["retained_accuracy"].astype(float),
        }
    ).reset_index(drop=True)
    found["misses_by"] = (found["asr"] - SHOWN).clip(lower=0) + (KEPT - found["retained"]).clip(
        lower=0
    )
    order = found.assign(kept=-found["retained"], length=found["setting"].str.len())
    order = order.sort_values(["misses_by", "kept", "asr", "length"], kind="stable")
    best = order.drop_duplicates("method").index
    return found.assign(chosen=found.index.isin(best))


def choices_to_markdown(found: pd.DataFrame) -> str:
    """A table for people, the chosen settings in bold."""
    rows: list[list[str]] = []
    for row in found.to_dict("records"):
        setting = markdown_text(row["setting"])
        cells = [
            markdown_text(row["method"]),
            f"**{setting}**" if row["chosen"] else setting,
            f"{row['asr']:.0%}",
            f"{row['retained']:.0%}",
            f"{row['misses_by']:.0%}" if row["misses_by"] else "–",
        ]
        rows.append(cells)
    head = ["method", "setting", "success by name", "retained", "misses the bars by"]
    return markdown_table(head, rows, left=2)


def main(arguments: list[str]) -> int:
    """Writes ``choice.md`` beside a report's table and prints it; the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m bench.tables.choose FOLDER_OF_A_REPORT\n")
        return 2
    return print_or_refuse(lambda: _written(Path(arguments[0])))


def _written(folder: Path) -> str:
    """The table of a report's choices, which is written beside its own."""
    text = choices_to_markdown(choices(read_table(folder / "table.csv")))
    head = (
        f"# Presets chosen\n\nBy `python -m bench.tables.choose {folder}`: success by name at most "
        f"{SHOWN:.0%}, accuracy retained at least {KEPT:.0%}; among those the most retained, else the one that "
        "misses least. In bold: chosen.\n\n"
    )
    write_atomic(folder / "choice.md", (head + text).encode())
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
