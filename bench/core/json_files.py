"""JSON objects that a user gives: configurations, concepts, settings; read with care."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.core.digest import JSON, parse_json
from bench.core.errors import UsageError, shown
from bench.core.files import bounded

__all__ = ["object_in", "read_object"]

_MOST: Final = 2**25  # bytes; a tokenizer of 50,000 words has 2 million


def read_object(path: Path, most: int = _MOST) -> dict[str, JSON]:
    """The JSON object in a file.

    Args:
        path: A regular file or a link to one.
        most: Bytes that it may have; 32 MiB.

    Raises:
        UsageError: it cannot be read, is larger, or holds something else.
    """
    return object_in(bounded(path, most), path)


def object_in(data: bytes, where: object) -> dict[str, JSON]:
    """The JSON object in a text: each key once, no NaN and no infinity, of sane depth.

    Args:
        data: UTF-8.
        where: What the text was read from, for the error.

    Raises:
        UsageError: it holds something else.
    """
    try:
        value = parse_json(data)
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: expected UTF-8, got byte 0x{data[error.start]:02x}") from error
    except ValueError as error:
        raise UsageError(f"{where}: expected JSON, got {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected a JSON object, got {shown(value)}")
    return value
