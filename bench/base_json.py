"""JSON files of a base's folder, read with care."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.digest import JSON, parse_json
from bench.errors import UsageError

__all__ = ["read_object"]

_MAX_BYTES: Final = 2**25  # a tokenizer of 50,000 words has 2 million


def read_object(path: Path) -> dict[str, JSON]:
    """The JSON object in a file.

    Raises:
        UsageError: it is not there, is no file, holds something else, or is larger than 32 MiB.
        OSError: it cannot be read.
    """
    if not path.is_file():
        got = "none" if not path.exists() and not path.is_symlink() else "no regular file"
        raise UsageError(f"{path}: expected a file, got {got}")
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path}: expected at most {_MAX_BYTES} bytes, got more")
    try:
        value = parse_json(data)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected UTF-8, got byte 0x{data[error.start]:02x}") from error
    except ValueError as error:
        raise UsageError(f"{path}: expected JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
