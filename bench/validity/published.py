"""Published numbers, as rankings: one for each table, concept, attack and measure that has enough methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import pandas as pd

from bench.core.errors import UsageError
from bench.core.files import regular
from bench.tables.frames import read_table
from bench.validity.names import METHODS, SUCCESS, UTILITY, Measure, attack_named
from bench.validity.ranks import LEAST, Agreement, agreement

__all__ = ["Ranking", "Twice", "between_tables", "rankings", "read_published"]

_COLUMNS: Final = (
    *("source", "where", "base", "family", "concept", "method"),
    *("attack", "metric", "value", "evidence"),
)
_FIRST_HAND: Final = ("primary-doc", "mirror-html")
"""Read in the source itself or in a copy of its tables; third-party notes and transcriptions are left out."""
_UNERASED: Final = "base"


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The order that one published table gives to several methods.

    Attributes:
        source: Paper or repository.
        where: Its table.
        family: Kind of the erased concepts.
        concept: The erased concept.
        attack: As the source calls it; empty for utility.
        ours: Our name of the attack; empty for utility.
        metric: As the source calls it.
        measure: ``success`` of the attack or ``utility``.
        scores: By the published name of the method; high means that the concept comes back, or is kept.
    """

    source: str
    where: str
    family: str
    concept: str
    attack: str
    ours: str
    metric: str
    measure: Measure
    scores: pd.Series

    @property
    def of_our_methods(self) -> pd.Series:
        """The scores by our names of the methods; of several variants the first that we name."""
        found = {}
        for ours, variants in METHODS.items():
            there = [name for name in variants if name in self.scores.index]
            if there:
                found[ours] = float(self.scores[there[0]])
        return pd.Series(found, dtype=float)


@dataclass(frozen=True, slots=True)
class Twice:
    """Two published tables about the same question.

    Attributes:
        ours: Our name of the attack; empty for utility.
        measure: ``success`` of the attack or ``utility``.
        first: The source of one.
        second: The source of the other.
        agreement: Of the methods that both have.
    """

    ours: str
    measure: Measure
    first: str
    second: str
    agreement: Agreement


def read_published(path: Path) -> pd.DataFrame:
    """The table of published numbers, without what was not read at its source and without other bases than SD 1.x.

    Raises:
        UsageError: the file is no such table.
    """
    table = read_table(regular(path))
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise UsageError(f"{path}: expected the columns {', '.join(_COLUMNS)}, got no {missing[0]}")
    if not pd.api.types.is_numeric_dtype(table["value"]):
        raise UsageError(f"{path}: expected numbers in the column value, got text")
    mine = table["evidence"].isin(_FIRST_HAND) & table["base"].str.match(r"SD-1\.\d").fillna(False)
    return table[mine & table["value"].notna()]


def rankings(published: pd.DataFrame) -> Iterator[Ranking]:
    """Every ranking of at least :data:`~bench.validity.ranks.LEAST` methods by something that we measure too.

    The unerased model is left out: every table has it at the end.
    """
    columns = ["source", "where", "family", "concept", "attack", "metric"]
    for key, rows in published.fillna({"attack": "none"}).groupby(columns, sort=False):
        source, where, family, concept, attack, metric = map(str, key)
        values = rows[rows["method"] != _UNERASED].groupby("method", sort=False)["value"].mean()
        if len(values) < LEAST:
            continue
        told = (source, where, family, concept)
        ours = attack_named(attack, metric)
        if metric in SUCCESS and ours is not None:
            yield Ranking(*told, attack, ours, metric, "success", values * SUCCESS[metric])
        elif metric in UTILITY and attack == "none":
            yield Ranking(*told, "", "", metric, "utility", values * UTILITY[metric])


def between_tables(found: list[Ranking]) -> Iterator[Twice]:
    """How far published tables agree with each other: the ceiling of what a miniature can reach.

    Two tables are about the same question if concept, attack and, for utility, measure are the same.
    """
    for first, second in combinations(found, 2):
        asked = [(r.concept, r.ours, r.measure, r.ours or r.metric) for r in (first, second)]
        if asked[0] != asked[1] or first.source == second.source:
            continue
        both = first.scores.index.intersection(second.scores.index)
        if len(both) >= LEAST:
            agreed = agreement(first.scores[both], second.scores[both])
            yield Twice(first.ours, first.measure, first.source, second.source, agreed)
