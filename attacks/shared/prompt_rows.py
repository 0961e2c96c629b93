"""Parses the text of a prompts file into rows: CSV, JSONL, or the candidates of a store."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeGuard

from bench.core.errors import UsageError, shown

__all__ = ["KINDS", "MEANT", "STORED", "PromptRow", "parse_rows"]

STORED: Final = "candidates.json"
"""The name of the file that holds an attack's finds, in its folder of a store."""
KINDS: Final = {"states": 2, "latents": 3}
"""The tensors of a candidate, and their dimensions."""
MEANT: Final = {
    "class": "concept",
    "classes": "concept",
    "artist": "concept",
    "type": "concept",
    "label_str": "concept",
    "seed": "draw",
    "sd_seed": "draw",
    "evaluation_seed": "draw",
    "guidance": "draw",
    "sd_guidance_scale": "draw",
    "evaluation_guidance": "draw",
}
"""Columns of published lists that mean something and are not read, and what they would decide."""
MOST_ROWS: Final = 50_000
_LONGEST: Final = 2000
_TEXTS: Final = frozenset(
    {
        "prompt",
        "text",
        "adv_prompt",
        "adversarial_prompt",
        "target_prompt",
        "sensitive prompt",
        "prompts",
    }
)
"""Columns that hold the prompts in published lists that call them something else."""

Record = tuple[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt.

    Attributes:
        line: Where it stands in the file, from 1.
        prompt: Its text; empty where the row is blank.
        concept: The concept it is for; empty: any.
        goal: Of a candidate, what it was found for; candidates of one goal are alike.
        found: Of a published candidate, the attack and the method it was found on.
        states: Of a candidate, the name of the text states to use instead of the prompt; or empty.
        latents: The name of the noise to start from; or empty.
    """

    line: int
    prompt: str
    concept: str = ""
    goal: str = ""
    found: str = ""
    states: str = ""
    latents: str = ""

    @property
    def goal_id(self) -> str:
        """The name of its goal in the harness."""
        return f"file-{self.goal or self.line}"


def parse_rows(source: Path, text: str) -> tuple[list[PromptRow], dict[str, set[str]]]:
    """The rows of a file, blank ones too, and the values of each of its columns of :data:`MEANT`.

    Raises:
        UsageError: no ``prompt`` column, too many rows, or a bad row; names the file and the line.
    """
    read = {".csv": _csv, ".jsonl": _jsonl}.get(source.suffix, _stored)
    rows: list[PromptRow] = []
    unused: dict[str, set[str]] = {}
    for line, record in read(source, text):
        if len(rows) == MOST_ROWS:
            raise UsageError(f"{source}:{line}: expected at most {MOST_ROWS} rows; split the file")
        candidate = read is _stored or (read is _jsonl and "goal" in record)
        rows.append((_candidate if candidate else _row)(source, line, record))
        for name in (one for one in record if one in MEANT):  # a set would change their order
            if (value := record[name]) not in (None, ""):
                unused.setdefault(name, set()).add(str(value)[:_LONGEST])
    return rows, unused


def _csv(source: Path, text: str) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next((row for row in reader if row), [])
        if "prompt" not in header:
            raise UsageError(
                f"{source}:1: expected a column named prompt, got {_cut(header)}{_advice(header)}"
            )
        # Of columns that have one name, the last counts.
        read = {name: i for i, name in enumerate(header) if name in {"prompt", "concept", *MEANT}}
        for row in reader:
            if row and len(row) != len(header):
                raise UsageError(
                    f"{source}:{reader.line_num}: the number of fields is not that of the header; "
                    "quote commas in prompts"
                )
            if row:
                yield reader.line_num, {name: row[i] for name, i in read.items()}
    except csv.Error as error:
        raise UsageError(f"{source}:{reader.line_num}: not valid CSV ({error})") from error


def _cut(names: Sequence[str]) -> str:
    """The names, as far as they fit on a line."""
    text = ", ".join(names)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _advice(header: Sequence[str]) -> str:
    """Says what to do with a header that names no prompts."""
    if known := [name for name in header if name.strip().lower() in _TEXTS]:
        return f"; rename the column {' or '.join(map(shown, known))} to prompt"
    if any(name.count(" ") > 2 for name in header):
        return "; the first line looks like a prompt: add a header line above it"
    return "; rename the column that holds the prompts" if header else ""


def _jsonl(source: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
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
        yield number, record


def _stored(source: Path, text: str) -> Iterator[Record]:
    """The candidates of a store's folder, numbered from 1; each tensor is named by its number from 0."""
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source}: not valid JSON ({error})") from error
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise UsageError(f"{source}: expected a list of candidates")
    for i, r in enumerate(records):
        named = {kind: f"{kind}/{i}" if r.get(kind) is True else None for kind in KINDS}
        yield i + 1, {**r, **named}


def _candidate(source: Path, line: int, record: dict[str, Any]) -> PromptRow:
    """A row whose other keys count as well."""
    if record.get("weights") is not None:
        raise UsageError(
            f"{source}:{line}: a candidate that changes the model's weights is no prompt; it is tried "
            "on other methods by `transfer` in the suite that found it, or remove the row"
        )
    texts = {}
    for key in ("goal", "attack", "method", *KINDS):
        value = record.get(key)
        if value is not None and (not _is_text(value) or len(value) > _LONGEST):
            raise UsageError(
                f"{source}:{line}: {key}: expected text of at most {_LONGEST} characters, "
                f"got {shown(value)}"
            )
        texts[key] = value or ""
    made = _row(source, line, record)
    found = f"{texts['attack']} on {texts['method']}" if texts["attack"] else ""
    return replace(
        made, goal=texts["goal"], found=found, states=texts["states"], latents=texts["latents"]
    )


def _row(source: Path, line: int, record: dict[str, Any]) -> PromptRow:
    prompt, concept = record.get("prompt"), record.get("concept")
    concept = "" if concept is None else concept
    if not _is_text(prompt):
        raise UsageError(f"{source}:{line}: prompt: expected text, got {shown(prompt)}")
    if not _is_text(concept):
        raise UsageError(f"{source}:{line}: concept: expected text, got {shown(concept)}")
    if len(prompt) > _LONGEST:
        raise UsageError(f"{source}:{line}: prompt of {len(prompt)} characters; at most {_LONGEST}")
    if len(concept) > _LONGEST:
        raise UsageError(
            f"{source}:{line}: concept of {len(concept)} characters; at most {_LONGEST}"
        )
    return PromptRow(line=line, prompt=prompt.strip(), concept=concept.strip())


def _is_text(value: object) -> TypeGuard[str]:
    """A string that can be written as UTF-8; half a surrogate pair, which JSON can escape, cannot."""
    if not isinstance(value, str):
        return False
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)
