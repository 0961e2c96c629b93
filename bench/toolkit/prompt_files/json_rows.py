"""JSON: a line per row, a list of rows or of texts, a list per column; and the candidates of a store."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.errors import UsageError
from bench.toolkit.prompt_files.table import Record, Table, bounded_rows

__all__ = ["json_lines", "json_table", "stored"]


def json_lines(path: Path, text: str) -> Table:
    """The rows of a file with an object per line, or a text per line.

    Raises:
        UsageError: a line is neither, or they are too many.
    """
    return _table(path, bounded_rows(path, _lines(path, text)))


def json_table(path: Path, text: str) -> Table:
    """The rows of a file that is one JSON value: a list of objects or of texts, or a list per column.

    Raises:
        UsageError: it is another value, or the rows are too many.
    """
    value = _value(path, text)
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        lengths = {len(column) for column in value.values()}
        if len(lengths) > 1:
            raise UsageError(f"{path}: expected lists of one length per column, got {lengths}")
        value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise UsageError(
            f"{path}: expected a list of prompts, or of objects with a prompt, got "
            f"{type(value).__name__}"
        )
    return _table(
        path, bounded_rows(path, ((n, _record(path, n, v)) for n, v in enumerate(value, 1)))
    )


def stored(path: Path, text: str, kinds: tuple[str, ...]) -> Table:
    """The candidates of a store's folder, numbered from 1; each tensor is named by its number from 0.

    Args:
        path: For errors.
        text: Of the file.
        kinds: The tensors that a candidate may have.

    Raises:
        UsageError: it holds no list of candidates.
    """
    records = _value(path, text)
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise UsageError(f"{path}: expected a list of candidates")
    rows: Iterator[tuple[int, Record]] = (
        (i + 1, {**r, **{kind: f"{kind}/{i}" if r.get(kind) is True else None for kind in kinds}})
        for i, r in enumerate(records)
    )
    return _table(path, bounded_rows(path, rows))


def _lines(path: Path, text: str) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if line.strip():
            yield number, _record(path, number, _value(path, line, f":{number}"))


def _value(path: Path, text: str, place: str = "") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}{place}: not valid JSON ({error})") from error


def _record(path: Path, number: int, value: object) -> Record:
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise UsageError(
            f"{path}:{number}: expected an object with a prompt, got {type(value).__name__}"
        )
    return value


def _table(path: Path, rows: list[tuple[int, Record]]) -> Table:
    """The rows, and every key that one of them has."""
    return Table(path, tuple(dict.fromkeys(key for _, record in rows for key in record)), rows)
