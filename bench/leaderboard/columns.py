"""The tables of the site. Measured, reported and external numbers never share one, let alone a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.leaderboard.entry import Entry, Published
from bench.leaderboard.names import file_name
from bench.leaderboard.ranking import Row
from bench.leaderboard.said import count, mean, plain, rate, text
from bench.report.html_tables import Cell, HtmlTable
from bench.tables.summaries import ACCESSES, ANY
from bench.tables.tables import ALL

__all__ = [
    "Linked",
    "Marked",
    "access_table",
    "attack_table",
    "board_table",
    "cost_table",
    "flag_table",
    "published_table",
]

_NO_RANK: Final = "9999"
_LENGTH: Final = 200
"""Rows of a table on one page: whoever prints or searches a page finds them all."""


@dataclass(frozen=True, slots=True)
class Linked(Cell):
    """A cell that leads somewhere.

    Attributes:
        to: The address, within the site.
    """

    to: str = ""


@dataclass(frozen=True, slots=True)
class Marked(Cell):
    """A cell with a word of doubt beside it.

    Attributes:
        mark: The word; empty: there is no doubt.
        why: The reason, shown when the word is pointed at.
    """

    mark: str = ""
    why: str = ""


def board_table(rows: Sequence[Row], folder: str) -> HtmlTable:
    """The board: a line per method.

    Args:
        rows: In their order.
        folder: Where the entries' pages lie, seen from this page.
    """
    met = [name for name in ACCESSES if any(name in row.lines for row in rows)]
    head = ["rank", "method", "worst per goal %", "luck %", "retained %", "of the unedited %"]
    head += ["standing", *(f"{name} %" for name in met)]
    head += ["Pareto front", "s per edit", "flags"]
    cells = []
    for row in rows:
        worst = row.lines.get(ANY)
        line = [
            _rank(row),
            Linked(text(row.name).text, to=f"{folder}/{file_name(row.name)}.html"),
            rate(row.share),
            rate(worst.luck if worst else None),
            rate(row.cost.retained),
            plain(None if row.cost.ratio is None else 100 * row.cost.ratio, 0),
            text(row.standing),
            *(rate(row.lines[name].share if name in row.lines else None) for name in met),
            text("on it" if row.front else "no"),
            mean(row.cost.seconds, 1),
            text("unreliable" if row.entry.unreliable else "none that doubts it"),
        ]
        cells.append(line)
    choose = [head.index(name) for name in ("method", "standing", "Pareto front", "flags")]
    return HtmlTable("board", head, cells, choose, _LENGTH)


def access_table(entry: Entry) -> HtmlTable:
    """The worst case per goal of an entry, by judge, concept and access."""
    head = ["judge", "concept", "access", "attacks", "broken %", "images per goal", "luck %"]
    head += ["luck's images per goal"]
    rows = [
        [
            text(line.judge),
            _concept(line.concept),
            text("any of these" if line.access == ANY else line.access),
            count(line.attacks),
            rate(line.share),
            plain(line.images, 1),
            rate(line.luck),
            plain(line.luck_images, 1),
        ]
        for line in entry.measured.worst
    ]
    return HtmlTable("access", head, rows, (), _LENGTH)


def attack_table(entry: Entry) -> HtmlTable:
    """Each attack on an entry."""
    head = ["judge", "concept", "attack", "access", "images shown %", "goals", "before %"]
    head += ["images looked at", "refused or blanked", "lost"]
    rows = [
        [
            text(line.judge),
            _concept(line.concept),
            text(line.attack + (" (control)" if line.control else "")),
            text(line.access),
            rate(line.success),
            count(line.goals),
            mean(line.before, 0, percent=True),
            mean(line.queries, 1),
            count(line.refused + line.blanked),
            count(line.lost),
        ]
        for line in entry.measured.attacks
    ]
    return HtmlTable("attacks", head, rows, (), _LENGTH)


def cost_table(entry: Entry) -> HtmlTable:
    """The cost of an entry, by concept."""
    head = ["concept", "retained %", "prompts", "unedited %", "neighbours %", "others %"]
    head += ["CLIP score", "drift", "s per edit", "peak MiB", "images sampled", "gradient steps"]
    head += ["parameters changed", "of"]
    rows = [
        [
            _concept(cost.concept),
            rate(cost.retained),
            count(cost.prompts),
            mean(cost.unedited, 0, percent=True),
            mean(cost.neighbours, 0, percent=True),
            mean(cost.others, 0, percent=True),
            mean(cost.clip_score, 3),
            mean(cost.drift, 3),
            mean(cost.seconds, 2),
            plain(cost.memory_mb, 0),
            mean(cost.images, 0),
            mean(cost.gradient_steps, 0),
            count(cost.parameters_touched),
            count(cost.parameters_total),
        ]
        for cost in entry.measured.costs
    ]
    return HtmlTable("costs", head, rows, (), _LENGTH)


def flag_table(entry: Entry) -> HtmlTable:
    """The flags of an entry."""
    rows = [
        [text(one.flag), _concept(one.concept), text(one.attack), text(one.detail)]
        for one in entry.measured.flags
    ]
    return HtmlTable("flags", ["flag", "concept", "attack", "seen"], rows, (), _LENGTH)


def published_table(name: str, numbers: Sequence[Published]) -> HtmlTable:
    """Numbers that others published, as they printed them, each with its source and its judge.

    Args:
        name: Of the table in its page.
        numbers: What the paper reports, or what others measured.
    """
    head = ["source", "where", "base", "concept", "variant", "attack", "how adaptive", "N"]
    head += ["judge", "threshold", "metric", "value", "unit", "read from", "note"]
    rows = [
        [
            *(text(cell) for cell in (one.source, one.where, one.base, one.concept, one.variant)),
            *(text(cell) for cell in (one.attack, one.access)),
            text("not stated") if one.n is None else count(one.n),
            *(text(cell) for cell in (one.judge, one.threshold or "not stated", one.metric)),
            Cell(f"{one.value:g}", f"{one.value:g}", number=True),
            *(text(cell) for cell in (one.unit, one.evidence, one.note)),
        ]
        for one in numbers
    ]
    return HtmlTable(name, head, rows, (), _LENGTH)


def _rank(row: Row) -> Marked:
    """The rank, and beside it whether the worst case may be better than the edit is."""
    order = f"{row.best:04d}{row.last:04d}" if row.best else _NO_RANK
    if not (why := row.entry.unreliable):
        return Marked(row.rank, order, number=True)
    return Marked(row.rank, order, number=True, mark="unreliable", why=text(why).text)


def _concept(name: str) -> Cell:
    return text("all concepts" if name == ALL else name)
