"""Tables as CSV that no spreadsheet takes for formulas."""

from __future__ import annotations

from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

__all__ = ["as_cell", "as_csv", "from_cell"]

_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")


def as_csv(table: pd.DataFrame, *, digits: str | None = "%.6g") -> bytes:
    """The table in CSV, UTF-8; the text in it as :func:`as_cell` writes it, the numbers as they are.

    Args:
        table: With plain column names.
        digits: How fractions are written; ``None``: with as many digits as give the same number back.
    """
    held = {str(n): c.map(as_cell) for n, c in table.items() if not is_numeric_dtype(c.dtype)}
    text: str = table.assign(**held).to_csv(index=False, float_format=digits, lineterminator="\n")
    return text.encode()


def as_cell(value: Any) -> Any:
    """The value; text that a spreadsheet would take for a formula has an apostrophe before it.

    So has text that begins with an apostrophe, so that :func:`from_cell` gives back what there was.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS) else value


def from_cell(text: str) -> str:
    """The text that :func:`as_cell` wrote."""
    return text.removeprefix("'")
