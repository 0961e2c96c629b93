"""Reads a user's prompts from CSV or JSONL, and published candidates from JSONL or a store."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from safetensors import SafetensorError, safe_open

from bench.errors import UsageError, shown
from bench.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PromptRow", "read_prompts", "read_tensors", "tensors_file"]

_LONGEST = 2000
_LARGEST = 64 * 2**20
_STORED = "candidates.json"  # what an attack found, in its folder of a store
_KINDS = {"states": 2, "latents": 3}  # dimensions


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt.

    Attributes:
        line: Where it stands in the file, from 1.
        prompt: Its text.
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


def read_prompts(path: str | Path) -> list[PromptRow]:
    """Reads a ``.csv`` with a ``prompt`` column, or a ``.jsonl`` of objects with a ``prompt``; ``concept`` is optional.

    An object with a ``goal`` is a candidate, as ``candidates.jsonl`` of a report has them; the
    ``candidates.json`` of an attack in a store is read too. Their tensors lie beside them, see
    :func:`read_tensors`.

    Raises:
        UsageError: no such file, another ending, no ``prompt`` column, or a bad row; names the file
            and the line.
    """
    source = Path(path)
    if source.suffix not in (".csv", ".jsonl") and source.name != _STORED:
        raise UsageError(
            f"{source}: expected a .csv or .jsonl file of prompts, or {_STORED} of a store"
        )
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
    if source.suffix == ".csv":
        rows = [_row(source, line, record) for line, record in _csv(source, text)]
    elif source.suffix == ".jsonl":
        rows = [
            (_candidate if "goal" in record else _row)(source, line, record)
            for line, record in _jsonl(source, text)
        ]
    else:
        rows = [_candidate(source, line, record) for line, record in _stored(source, text)]
    if not rows:
        raise UsageError(f"{source}: holds no prompts")
    return rows


def tensors_file(path: str | Path) -> Path:
    """Where the tensors of a file of candidates lie: beside it, by the same name."""
    return Path(path).with_suffix(".safetensors")


def read_tensors(path: str | Path, rows: Iterable[PromptRow]) -> dict[str, Tensor]:
    """The text states [L, D] and the noise [C, h, w] that candidates name, in float32.

    Raises:
        UsageError: the file is missing or no safetensors, or lacks one of them.
    """
    source = tensors_file(path)
    wanted = {
        (kind, name): row.line
        for row in rows
        for kind, name in (("states", row.states), ("latents", row.latents))
        if name
    }
    if not wanted:
        return {}
    if not source.is_file():
        raise UsageError(
            f"{path}: its candidates need {source.name} beside it; where the report has none, give "
            f"{_STORED} of the attack's folder in the store"
        )
    found = {}
    try:
        with safe_open(source, framework="pt") as file:
            names = set(file.keys())
            for (kind, name), line in wanted.items():
                if name not in names:
                    raise UsageError(f"{path}:{line}: {source.name} has no {kind} {shown(name)}")
                value = file.get_tensor(name)
                sound = value.ndim == _KINDS[kind] and value.is_floating_point()
                if not sound or not bool(torch.isfinite(value).all()):
                    expected = f"{_KINDS[kind]} dimensions of finite numbers"
                    got = f"{list(value.shape)} of {value.dtype}"
                    raise UsageError(f"{path}:{line}: {kind}: expected {expected}, got {got}")
                found[name] = value.float()
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{source}: cannot be read as safetensors ({error})") from error
    return found


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


def _stored(source: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    """The candidates of a store's folder, numbered from 1; each tensor is named by its number from 0."""
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source}: not valid JSON ({error})") from error
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise UsageError(f"{source}: expected a list of candidates")
    return [
        (i + 1, {**r, **{kind: f"{kind}/{i}" if r.get(kind) is True else None for kind in _KINDS}})
        for i, r in enumerate(records)
    ]


def _candidate(source: Path, line: int, record: dict[str, Any]) -> PromptRow:
    """A row whose other keys count as well."""
    texts = {}
    for key in ("goal", "attack", "method", *_KINDS):
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
