"""The part of a published report that another takes over beside its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.report.gallery import Card

__all__ = ["Taken"]


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """Finds, curves, grids and pictures of lines that were computed for an earlier report.

    Attributes:
        candidates: Lines of ``candidates.jsonl``, in their order.
        changing: How many candidates more change the model's weights: they have no line.
        tensors: The file with their text states and noise; ``None``: the report published none.
        looks: Rows of :data:`~bench.tables.schema.BUDGET`: the searches' own account of their looks.
        grids: (concept, file) of each grid.
        cards: The pictures of its page.
    """

    candidates: tuple[Mapping[str, Any], ...]
    changing: int
    tensors: Path | None
    looks: pd.DataFrame
    grids: tuple[tuple[str, Path], ...]
    cards: tuple[Card, ...]
