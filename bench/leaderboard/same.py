"""Whether the rows of a cell say what a plan says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.core.errors import UsageError, shown
from bench.interfaces.minors import about_minors
from bench.run.cells import ScoreCell

__all__ = ["check_same", "check_statuses"]


def check_same(rows: pd.DataFrame, expected: Mapping[str, Any], where: str) -> None:
    """Refuses rows that do not all say what is expected of their cell.

    Args:
        rows: Of one cell.
        expected: A value per column; ``None``: it is missing in every row.
        where: Named in the error.

    Raises:
        UsageError: in one line.
    """
    for name, value in expected.items():
        column = rows[name]
        if value is None:
            apart = column.notna()
        elif isinstance(value, float):  # stored in half the digits
            apart = ~((column.astype(float) - value).abs() <= 1e-6 * max(1.0, abs(value)))
        else:
            apart = column != value
        if apart.any():
            got = shown(column[apart].iloc[0])
            raise UsageError(f"{where}: expected {name} {shown(value)}, got {got}")


def check_statuses(rows: pd.DataFrame, cell: ScoreCell, where: str) -> None:
    """Refuses images that count for nothing, or as failures, without a cause that the method has.

    No judge of this version abstains, and nothing refuses or blanks but a filter. The harness itself
    refuses prompts that speak of minors.

    Args:
        rows: Of one cell.
        cell: Whose rows they are.
        where: Named in the error.

    Raises:
        UsageError: in one line.
    """
    stopped = rows["status"].isin(["refused", "blanked"])
    allowed = (rows["status"] == "ok") | (stopped & ("filters" in cell.method.slots))
    if allowed.all():  # before any prompt is read
        return
    odd = rows[~allowed]
    odd = odd[~((odd["status"] == "refused") & odd["prompt"].map(about_minors))]
    if len(odd):
        status = odd["status"].iloc[0]
        raise UsageError(
            f"{where}: expected images of {cell.method.name} without {status}, got {len(odd)} rows; run it again"
        )
