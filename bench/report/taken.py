"""The part of a published report that another takes over beside its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from bench.report.gallery import Card
from bench.tables.schema import BUDGET

__all__ = ["NOTHING", "EarlierGrid", "Taken"]


@dataclass(frozen=True, slots=True)
class EarlierGrid:
    """A grid of an earlier report.

    Attributes:
        concept: What was erased.
        commit: Of the report.
        name: Of the file in the new report.
        png: Its bytes.
    """

    concept: str
    commit: str
    name: str
    png: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """Finds, curves, grids and pictures of lines that were computed for an earlier report; by default of none.

    Attributes:
        candidates: Lines of ``candidates.jsonl``, in their order.
        changing: How many candidates more change the model's weights: they have no line.
        tensors: The safetensors file with their text states and noise; ``None``: the report published none.
        looks: Rows of :data:`~bench.tables.schema.BUDGET`: the searches' own account of their looks.
        unpooled: Methods that are computed in part: no curve could pool all of their lines.
        grids: Those of the report, and those that it took over itself.
        cards: The pictures of its page.
    """

    candidates: tuple[Mapping[str, Any], ...] = ()
    changing: int = 0
    tensors: bytes | None = None
    looks: pd.DataFrame = field(default_factory=BUDGET.empty)
    unpooled: frozenset[str] = frozenset()
    grids: tuple[EarlierGrid, ...] = ()
    cards: tuple[Card, ...] = ()


NOTHING: Final = Taken()
"""No line is taken: the report is of one run alone."""
