"""Tables of the run's page: text for people, with the numbers that it is sorted by beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from bench.core.characters import visible
from bench.tables.agreement import agreement_cells
from bench.tables.headline import by_access, headline_cells
from bench.tables.measures import measures_cells
from bench.tables.stages import stages_cells
from bench.tables.summaries import ACCESSES, ANY
from bench.tables.tables import ALL, BASE, FLOOR
from bench.tables.text import fixed, interval

__all__ = [
    "Cell",
    "HtmlTable",
    "agreement_table",
    "attack_table",
    "flag_table",
    "headline_table",
    "measures_table",
    "options",
    "stages_table",
]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: What is shown.
        order: What it is sorted by, if not by its text; empty: the text.
        number: It is a number, which stands at the right.
    """

    text: str
    order: str = ""
    number: bool = False


@dataclass(frozen=True, slots=True)
class HtmlTable:
    """A table as the page's template takes it.

    Attributes:
        name: Its id in the page.
        head: The heads of its columns.
        rows: Its cells.
        choose: Indices of columns whose values are chosen from a list.
        length: Rows on one page of it.
    """

    name: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    choose: Sequence[int] = field(default_factory=tuple)
    length: int = 25

    @property
    def options(self) -> str:
        """As :func:`options`."""
        return options(len(self.rows), self.choose, length=self.length)


def options(rows: int, choose: Sequence[int], *, length: int) -> str:
    """The settings of a table for DataTables, as JSON.

    Args:
        rows: How many it has.
        choose: Indices of columns whose values are chosen from a list.
        length: Rows on one page of it.
    """
    every = {"targets": "_all", "columnControl": ["order"]}
    some = {"targets": list(choose), "columnControl": ["order", ["searchList"]]}
    return json.dumps(
        {
            "columnDefs": [some, every],
            "info": rows > length,
            "lengthChange": False,
            "order": [],
            "ordering": {"indicators": False, "handler": False},
            "pageLength": length,
            "paging": rows > length,
        }
    )


def headline_table(worst: pd.DataFrame) -> HtmlTable:
    """The worst case per goal, by judge, concept and method."""
    if not len(worst):
        return HtmlTable("worst", ["method"], [])
    texts = headline_cells(worst)
    by = by_access(worst)
    last = by[ANY]
    numbers = {f"{name} %": by[name]["share"].to_numpy() for name in ACCESSES if name in by}
    numbers |= {
        "worst per goal %": last["share"].to_numpy(),
        "luck %": last["control_share"].to_numpy(),
        "goals": last["goals"].to_numpy(),
        "retained %": last["retained_accuracy"].to_numpy(),
        "edit s": last["edit_seconds"].to_numpy(),
    }
    return _table("worst", texts, pd.DataFrame(numbers), choose=["judge", "concept", "method"])


def attack_table(table: pd.DataFrame) -> HtmlTable:
    """Every line of the table: each attack with what it did before, by luck and in its own view."""
    texts = pd.DataFrame(
        {
            "concept": table["concept"].replace({ALL: "all concepts"}),
            "method": table["method"],
            "attack": table["attack"] + table["control"].map({True: " (control)", False: ""}),
            "success %": interval(table, "asr", "asr_low", "asr_high"),
            "before %": fixed(100 * table["pre_asr"], 0),
            "luck %": interval(table, "luck_asr", "luck_low", "luck_high"),
            "own view %": fixed(100 * table["own_asr"], 0),
            "N": fixed(table["queries"], 1),
            "images": fixed(table["n"], 0),
            "goals": fixed(table["clusters"], 0),
            "refused": fixed(table["refused"] + table["blanked"], 0),
            "lost": fixed(table["errors"] + table["abstained"], 0),
        }
    )
    numbers = pd.DataFrame(
        {
            "success %": table["asr"],
            "before %": table["pre_asr"],
            "luck %": table["luck_asr"],
            "own view %": table["own_asr"],
            "N": table["queries"],
            "images": table["n"],
            "goals": table["clusters"],
            "refused": table["refused"] + table["blanked"],
            "lost": table["errors"] + table["abstained"],
        }
    )
    if len(set(table["judge"])) > 1:
        texts.insert(0, "judge", table["judge"])
    return _table("attacks", texts, numbers, choose=["judge", "concept", "method", "attack"])


def flag_table(flags: pd.DataFrame) -> HtmlTable:
    """Every raised flag."""
    texts = flags[["flag", "method", "concept", "attack", "detail"]]
    return _table("flags", texts, pd.DataFrame(), choose=["flag", "method", "concept", "attack"])


def measures_table(lines: pd.DataFrame) -> HtmlTable:
    """The cost of an edit by every metric, all concepts pooled: a row per method."""
    return _plain("measures", measures_cells(lines))


def agreement_table(lines: pd.DataFrame) -> HtmlTable:
    """How far judges decide alike, all concepts pooled."""
    return _plain("agreement", agreement_cells(lines))


def stages_table(lines: pd.DataFrame) -> HtmlTable:
    """The success of ensembles by stage, all concepts pooled."""
    return _plain("stages", stages_cells(lines))


def _plain(name: str, texts: pd.DataFrame) -> HtmlTable:
    """A table that is as it stands: nothing is sorted or chosen."""
    return _table(name, texts, pd.DataFrame(), choose=[])


def _table(
    name: str, texts: pd.DataFrame, numbers: pd.DataFrame, *, choose: Sequence[str]
) -> HtmlTable:
    """A table of texts; columns of ``numbers`` of the same name say how they are sorted."""
    order = {head: numbers[head].to_list() for head in numbers}
    columns = []
    for head in texts:
        shown = [visible(str(text)) for text in texts[head]]
        if head in order:
            pairs = zip(shown, order[head], strict=True)
            columns.append([Cell(text, _key(value), number=True) for text, value in pairs])
        else:
            columns.append([Cell(text, _rank(str(head), text)) for text in shown])
    chosen = [i for i, head in enumerate(texts) if head in choose]
    rows = list(zip(*columns, strict=True))
    return HtmlTable(name, [str(head) for head in texts], rows, chosen)


def _key(value: float) -> str:
    """A number to sort by; what is missing comes before all others."""
    missing = pd.isna(value) or math.isnan(float(value))
    return "-1" if missing else f"{float(value):.6g}"


def _rank(head: str, text: str) -> str:
    """The unedited model before all methods, the destroyed after them, as in the tables."""
    if head != "method":
        return ""
    place = {BASE: 0, FLOOR: 2}.get(text, 1)
    return f"{place} {text}"
