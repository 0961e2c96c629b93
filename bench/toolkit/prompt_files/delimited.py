"""CSV, TSV and plain lists.

The csv module of Python reads them, as it is strict about quotes and counts lines as an editor does.
`pandas` fills up short rows without a word, and `pyarrow` counts rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.errors import UsageError
from bench.toolkit.prompt_files.table import Record, Table, bounded_rows

__all__ = ["delimited", "plain_list"]


def delimited(path: Path, text: str, separator: str, *, header: bool) -> Table:
    """The rows of a file with a line of names, or without one.

    Args:
        path: For errors.
        text: Of the file.
        separator: Between the fields of a row.
        header: Whether the first line names the columns; otherwise they have numbers.

    Raises:
        UsageError: a row has another number of fields, quotes are wrong, or the rows are too many.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        first = next((row for row in reader if row), [])
        names: tuple[str | int, ...] = tuple(first) if header else tuple(_numbers(first))
        line = reader.line_num if first else 1
        rows = bounded_rows(path, _rows(path, reader, names, [] if header else first, separator))
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: not valid CSV ({error})") from error
    return Table(path, names, rows, header=line if header else 0)


def plain_list(path: Path, text: str) -> Table:
    """The lines of a plain text, each a prompt; blank ones part them.

    Raises:
        UsageError: it is a table under the name of a list, or the lines are too many.
    """
    lines = list(enumerate(io.StringIO(text, newline=None), start=1))
    first = next((line for _, line in lines if line.strip()), "")
    for separator, ending in ((",", ".csv"), ("\t", ".tsv")):
        if "prompt" in [name.strip(' "\n').lower() for name in first.split(separator)]:
            raise UsageError(f"{path}:1: looks like a table with a header; name it {ending}")
    rows: Iterator[tuple[int, Record]] = ((n, {1: line}) for n, line in lines if line.strip())
    return Table(path, (1,), bounded_rows(path, rows))


def _numbers(first: list[str]) -> Iterator[int]:
    yield from range(1, len(first) + 1)


def _rows(
    path: Path,
    reader: Any,
    names: tuple[str | int, ...],
    first: list[str],
    separator: str,
) -> Iterator[tuple[int, Record]]:
    """The rows with their lines; of columns that have one name, the last counts."""
    if first:
        yield reader.line_num, dict(zip(names, first, strict=True))
    for row in reader:
        if not row:
            continue
        line: int = reader.line_num
        if len(row) != len(names):
            mark = "tabs" if separator == "\t" else "commas"
            raise UsageError(
                f"{path}:{line}: the number of fields is not that of the header; "
                f"quote {mark} in prompts"
            )
        yield line, dict(zip(names, row, strict=True))
