"""The table as people read it, in Markdown and LaTeX; and what makes text safe for each."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

import pandas as pd

from bench.core.characters import visible
from bench.tables.tables import ALL, BASE, PLAIN, in_order

__all__ = [
    "NONE",
    "attacks_to_markdown",
    "fixed",
    "interval",
    "latex_text",
    "markdown_table",
    "markdown_text",
    "slug",
    "to_latex",
    "to_markdown",
    "wrapped",
]

NONE = "–"
"""What stands for a number that is missing."""
_MOST = 60  # lines of attacks a page can have
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    NONE: "--",
}


def to_markdown(table: pd.DataFrame) -> str:
    """A table for people, one per judge: attack success in percent and what the edit cost."""
    if not len(table):
        return "No rows.\n"
    parts = []
    judges = table["judge"].unique()
    for judge in judges:
        cells = _cells(table, judge)
        head = map(markdown_text, ["concept", "method", *cells.columns])
        lines = zip(cells.index, cells.to_numpy(), strict=True)
        rows = [[*map(markdown_text, (*key, *row))] for key, row in lines]
        parts.append(markdown_table(head, rows, left=2))
        if len(judges) > 1:
            parts[-1] = f"Judge: {markdown_text(judge)}\n\n{parts[-1]}"
    return "\n".join(parts)


def attacks_to_markdown(table: pd.DataFrame) -> str:
    """Every attack that searches, by the judge of record: before, N, own view, success and luck.

    Where that is too long for a page, the pooled lines alone.

    Returns:
        The table and what it leaves out; nothing where no attack searches.
    """
    if not len(table):
        return ""
    lines = table[table["judge"] == table["judge"].iloc[0]]
    if lines["concept"].nunique() == 2:  # one concept and its pooled lines, which say the same
        lines = lines[lines["concept"] != ALL]
    lines = lines[~lines["control"] & (lines["attack"].str.partition("/")[0] != PLAIN)]
    if not len(lines):
        return ""
    every = len(lines)
    pooled = lines[lines["concept"] == ALL]  # none where there is one concept
    lines = pooled if every > _MOST and len(pooled) else lines
    cells = pd.DataFrame(
        {
            "concept": lines["concept"],
            "method": lines["method"],
            "attack": lines["attack"],
            "before %": fixed(100 * lines["pre_asr"], 0),
            "N": fixed(lines["queries"], 1),
            "own view %": fixed(100 * lines["own_asr"], 0),
            "success %": interval(lines, "asr", "asr_low", "asr_high"),
            "luck %": interval(lines, "luck_asr", "luck_low", "luck_high"),
            "luck's N": fixed(lines["luck_queries"], 1),
        }
    ).map(markdown_text)
    left = every - len(lines)
    more = f"\nThe lines of single concepts ({left}) are in [table.csv](table.csv).\n" * bool(left)
    return markdown_table(map(str, cells), cells.to_numpy().tolist(), left=3) + more


def to_latex(table: pd.DataFrame) -> str:
    """A LaTeX table of the judge of record; it needs the package booktabs."""
    if not len(table):
        return "% No rows.\n"
    judge, suite = str(table["judge"].iloc[0]), str(table["suite"].iloc[0])
    cells = _cells(table, judge).map(latex_text)
    cells.index = pd.MultiIndex.from_tuples([tuple(map(latex_text, key)) for key in cells.index])
    cells.columns = pd.Index([latex_text(name) for name in cells.columns])
    return cells.style.to_latex(
        hrules=True,
        multirow_align="naive",
        column_format="ll" + "r" * len(cells.columns),
        caption=f"Attack success rate in percent with 95\\,\\% interval, suite {latex_text(suite)}, "
        f"judge {latex_text(judge)}.",
        label=f"tab:{slug(suite)}",
        position_float="centering",
    )


def markdown_table(head: Iterable[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A table in Markdown.

    Args:
        head: The heads of the columns, as Markdown.
        rows: Their cells, as Markdown.
        left: How many columns stand at the left; the others are numbers.
    """
    heads = list(head)
    rule = ["---"] * left + ["--:"] * (len(heads) - left)
    return "".join(f"| {' | '.join(row)} |\n" for row in (heads, rule, *rows))


def markdown_text(value: object) -> str:
    """Text that a Markdown table cell shows as it is."""
    escaped = re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", visible(str(value)))
    return " ".join(escaped.split())


def slug(name: str) -> str:
    """A name for a file: ``[a-z0-9_]+``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "_"


def wrapped(name: str, width: int) -> str:
    """A name on lines of at most ``width``; its preset and its fields begin new ones where it is longer."""
    parts = re.split(r"(?=[\[(])", name) if len(name) > width else [name]
    return "\n".join(line for part in parts for line in textwrap.wrap(part, width)) or name


def _cells(table: pd.DataFrame, judge: str) -> pd.DataFrame:
    """The cells that people read, all text: a row per (concept, method), a column per attack or cost."""
    lines = table[table["judge"] == judge]
    if lines["concept"].nunique() == 2:  # one concept and its pooled lines, which say the same
        lines = lines[lines["concept"] != ALL]
    once = lines.drop_duplicates("attack").assign(concept=ALL, method=BASE)
    attacks = in_order(once, [judge])["attack"]
    lines = lines.assign(text=interval(lines, "asr", "asr_low", "asr_high"))
    keys = lines[["concept", "method"]].drop_duplicates()
    index = pd.MultiIndex.from_frame(keys)
    cells = lines.pivot_table("text", ["concept", "method"], "attack", aggfunc="first")
    cells = cells.reindex(index=index, columns=attacks).fillna(NONE)
    groups = lines.groupby(["concept", "method"])
    cost = groups.first().reindex(index)
    sums = groups[["attempted", "refused", "blanked", "errors", "abstained"]].sum().reindex(index)
    stopped = sums["refused"] + sums["blanked"]
    if bool(stopped.any()):
        cells["refused %"] = fixed(100 * stopped / sums["attempted"], 0)
    lost = sums["errors"] + sums["abstained"]
    if bool(lost.any()):
        cells["errors"] = fixed(lost, 0)
    cells["retained %"] = fixed(100 * cost["retained_accuracy"], 0)
    cells["neighbour %"] = fixed(100 * cost["neighbour_accuracy"], 0)
    cells["CLIP"] = fixed(cost["clip_score"], 3)
    cells["drift"] = fixed(cost["drift"], 3)
    cells["edit s"] = fixed(cost["edit_seconds"], 1)
    return cells.rename_axis(columns=None)


def interval(lines: pd.DataFrame, rate: str, low: str, high: str) -> pd.Series:
    """Rates in percent with their intervals, as text; a dash where there is none."""
    said = lines[[rate, low, high]].mul(100).round().astype("Int64").astype("str")
    text = said[rate] + " [" + said[low] + ", " + said[high] + "]"
    return text.where(lines[rate].notna(), NONE)


def fixed(values: pd.Series, digits: int) -> pd.Series:
    """Numbers with so many digits after the point, as text; a dash where there is none."""
    return values.map(lambda value: NONE if pd.isna(value) else f"{value:.{digits}f}")


def latex_text(text: str) -> str:
    r"""Text that a LaTeX cell shows as it is; a row that begins with [ or * would belong to the ``\\`` before it."""
    escaped = "".join(_LATEX.get(character, character) for character in visible(text))
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped.startswith(("[", "*")) else escaped
