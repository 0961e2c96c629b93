"""Reads a file of prompts once: what is tried is what its hash names, whatever becomes of it meanwhile."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bench.core.errors import UsageError
from bench.core.files import bounded
from bench.interfaces.prompt_source import Picked, PromptSource
from bench.toolkit.prompt_files.content import PromptFile
from bench.toolkit.prompt_files.formats import MOST_BYTES, checked_ending, table_of
from bench.toolkit.prompt_files.meaning import meaning_of
from bench.toolkit.prompt_files.rows import rows_of

__all__ = ["read_rows", "read_source", "source_bytes"]


def read_source(source: PromptSource) -> PromptFile:
    """Reads a file of prompts as a suite names it.

    Raises:
        UsageError: see :func:`read_rows`.
    """
    path = Path(source.file)
    return read_rows(path, source_bytes(path), source)


def source_bytes(path: Path) -> bytes:
    """The bytes of a file of prompts, packed as it lies.

    Raises:
        UsageError: another ending, no such file, or it is too large.
    """
    checked_ending(path)
    return bounded(path, MOST_BYTES, todo="split it, or keep fewer rows")


def read_rows(path: Path, data: bytes, picked: Picked) -> PromptFile:
    """The rows of a file; those about minors and blank ones are dropped and counted.

    Args:
        path: Its name says the format.
        data: Its content.
        picked: What is asked of it.

    Raises:
        UsageError: it is not of its format, no column holds prompts, a class is not used, a value is
            wrong, or no row can be used. The error names the file, and the line where there is one.
    """
    header = not isinstance(picked.columns.prompt, int)
    table = table_of(path, data, header=header)
    if not table.records and not table.header:
        raise UsageError(f"{path}: holds no prompts")
    meaning = meaning_of(table, picked)
    if not table.records:
        raise UsageError(f"{path}: holds no prompts")
    rows, dropped = rows_of(table, meaning, picked.draws)
    found = PromptFile(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        picked=picked,
        meaning=meaning,
        rows=tuple(rows),
        dropped=dropped,
    )
    if not rows:
        raise UsageError(f"{path}: no row of it can be tried: {found.counted}")
    return found
