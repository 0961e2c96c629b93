"""From the bytes of a file to its rows, by the ending of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.core.errors import UsageError
from bench.toolkit.prompt_files.delimited import delimited, plain_list
from bench.toolkit.prompt_files.json_rows import json_lines, json_table, stored
from bench.toolkit.prompt_files.parquet import parquet_table
from bench.toolkit.prompt_files.table import Table
from bench.toolkit.prompt_files.text import decoded, unpacked

__all__ = ["KINDS", "MOST_BYTES", "STORED", "checked_ending", "table_of"]

STORED: Final = "candidates.json"
"""The name of the file that holds an attack's finds, in its folder of a store."""
KINDS: Final = {"states": 2, "latents": 3}
"""The tensors of a candidate, and their dimensions."""
MOST_BYTES: Final = 8 * 2**20
"""Of a file of prompts, unpacked; COCO's 30,000 captions are 3 MB."""

_SEPARATORS: Final = {".csv": ",", ".tsv": "\t"}
_LINES: Final = (".jsonl", ".ndjson")
_ENDINGS: Final = (*_SEPARATORS, *_LINES, ".json", ".parquet", ".txt")


def checked_ending(path: Path) -> str:
    """The ending that says what the file holds, in small letters; that of ``a.csv.gz`` is ``.csv``.

    Raises:
        UsageError: no such files are read.
    """
    name = Path(path.name.lower().removesuffix(".gz"))
    if name.suffix not in _ENDINGS:
        raise UsageError(
            f"{path}: expected a .csv or .jsonl file of prompts, or one of {', '.join(_ENDINGS)}, "
            f"packed by gzip or not, or {STORED} of a store; other endings are not read"
        )
    return name.suffix


def table_of(path: Path, data: bytes, *, header: bool = True) -> Table:
    """The rows of a file.

    Args:
        path: Its name says what it holds.
        data: Its content.
        header: Whether the first line of a CSV or TSV names the columns.

    Raises:
        UsageError: it does not hold what its name says; with the line where there is one.
    """
    ending = checked_ending(path)
    data = unpacked(path, data, MOST_BYTES)
    if ending == ".parquet":
        return parquet_table(path, data, 4 * MOST_BYTES)
    text = decoded(path, data)
    if path.name == STORED:
        return stored(path, text, tuple(KINDS))
    if (separator := _SEPARATORS.get(ending)) is not None:
        return delimited(path, text, separator, header=header)
    if ending == ".txt":
        return plain_list(path, text)
    return json_lines(path, text) if ending in _LINES else json_table(path, text)
