"""The rows of a file before anybody knows what its columns mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.core.errors import UsageError
from bench.interfaces.prompt_source import MOST_ROWS

__all__ = ["Record", "Table", "bounded_rows"]

Record = dict[str | int, Any]
"""A row's values by column: its name, or its number from 1 where the file names none."""

_MOST_COLUMNS: Final = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows of a file.

    Attributes:
        path: Where it was read.
        columns: The names of its columns in order; their numbers where it has no header.
        records: Each row with its line, or its number where the format has no lines; from 1.
        header: The line of the header; 0: the format has none.
    """

    path: Path
    columns: tuple[str | int, ...]
    records: list[tuple[int, Record]]
    header: int = 0

    def __post_init__(self) -> None:
        """Refuses more columns than anybody publishes."""
        if len(self.columns) > _MOST_COLUMNS:
            raise UsageError(
                f"{self.path}: expected at most {_MOST_COLUMNS} columns, got {len(self.columns)}"
            )


def bounded_rows(path: Path, rows: Iterable[tuple[int, Record]]) -> list[tuple[int, Record]]:
    """The rows, if they are not too many; no more are made than that.

    Raises:
        UsageError: there are more than :data:`MOST_ROWS`.
    """
    kept: list[tuple[int, Record]] = []
    for line, record in rows:
        if len(kept) == MOST_ROWS:
            raise UsageError(f"{path}:{line}: expected at most {MOST_ROWS} rows; split the file")
        kept.append((line, record))
    return kept
