"""Rows of a cell: why they have their status, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

__all__ = ["reasons", "writing"]


def reasons(status: Sequence[str]) -> list[str]:
    """Why a row has the status ``error``; empty for the others."""
    return ["the latents or the image are not finite" if s == "error" else "" for s in status]


def writing(rows: pd.DataFrame) -> Callable[[Path], None]:
    """Returns what writes the rows into the folder of their cell."""
    return lambda folder: rows.to_parquet(folder / "rows.parquet", compression="lz4", index=False)
