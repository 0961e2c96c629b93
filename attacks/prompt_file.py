"""Reads a user's prompts from CSV or JSONL."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from bench.errors import UsageError, shown

__all__ = ["PromptRow", "read_prompts"]

_LONGEST = 2000
_LARGEST = 64 * 2**20


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt.

    Attributes:
        line: Where it stands in the file, from 1.
        prompt: Its text.
        concept: The concept it is for; empty: any.
    """

    line: int
    prompt: str
    concept: str = ""


def read_prompts(path: str | Path) -> list[PromptRow]:
    """Reads a ``.csv`` with a ``prompt`` column, or a ``.jsonl`` of objects with a ``prompt``; ``concept`` is optional.

    Raises:
        UsageError: no such file, another ending, no ``prompt`` column, or a bad row; names the file
            and the line.
    """
    source = Path(path)
    if source.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"{source}: expected a .csv or .jsonl file of prompts")
    try:
        fits = source.stat().st_size <= _LARGEST
        text = source.read_text(encoding="utf-8-sig") if fits else ""
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{source}: cannot be read ({reason})") from error
    if not fits:
        raise UsageError(f"{source}: larger than 64 MiB; split it")
    records = _csv(source, text) if source.suffix == ".csv" else _jsonl(source, text)
    rows = [_row(source, line, record) for line, record in records]
    if not rows:
        raise UsageError(f"{source}: holds no prompts")
    return rows


def _csv(source: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if "prompt" not in (reader.fieldnames or ()):
            raise UsageError(
                f"{source}:1: expected a column named prompt, got {', '.join(reader.fieldnames or ())}"
            )
        records = [(reader.line_num, dict(record)) for record in reader]
    except csv.Error as error:
        raise UsageError(f"{source}:{reader.reader.line_num}: not valid CSV ({error})") from error
    for line, record in records:
        if None in record or None in record.values():  # too many, too few
            raise UsageError(
                f"{source}:{line}: the number of fields is not that of the header; quote commas in prompts"
            )
    return records


def _jsonl(source: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{source}:{number}: not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise UsageError(
                f"{source}:{number}: expected an object with a prompt, got {type(record).__name__}"
            )
        records.append((number, record))
    return records


def _row(source: Path, line: int, record: dict[str, Any]) -> PromptRow:
    prompt, concept = record.get("prompt"), record.get("concept")
    concept = "" if concept is None else concept
    if not _is_text(prompt) or not prompt.strip():
        raise UsageError(f"{source}:{line}: prompt: expected text, got {shown(prompt)}")
    if not _is_text(concept):
        raise UsageError(f"{source}:{line}: concept: expected text, got {shown(concept)}")
    if len(prompt) > _LONGEST:
        raise UsageError(f"{source}:{line}: prompt of {len(prompt)} characters; at most {_LONGEST}")
    return PromptRow(line=line, prompt=prompt.strip(), concept=concept.strip())


def _is_text(value: object) -> TypeGuard[str]:
    """A string that can be written as UTF-8; half a surrogate pair, which JSON can escape, cannot."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)
