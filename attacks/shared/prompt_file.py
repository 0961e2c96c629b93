"""Reads a user's prompts from CSV or JSONL, and published candidates from JSONL or a store.

A file is read once: what is tried is what the digest names, whatever becomes of the file meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError

from attacks.shared.prompt_rows import KINDS, STORED, PromptRow, parse_rows
from bench.core.errors import UsageError, shown
from bench.core.files import bounded
from bench.core.lazy import torch
from bench.interfaces.minors import about_minors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "PromptFile",
    "PromptRow",
    "file_hashes",
    "read_prompt_file",
    "read_prompts",
    "read_tensors",
    "tensors_file",
]

MOST_BYTES: Final = 8 * 2**20  # COCO's 30,000 captions are 3
MOST_TENSOR_BYTES: Final = 256 * 2**20
_OTHERS: Final = {
    ".json": "JSON lists are not read; write one object with a prompt per line",
    ".txt": "plain text lists are not read; save it as .csv below a first line that says prompt",
    ".tsv": "columns are parted by commas",
}


@dataclass(frozen=True, slots=True, eq=False)
class PromptFile:
    """The content of a prompt file when it was read.

    Attributes:
        path: Where it was read.
        hashes: sha256 of the file, and of the tensors beside it, if there are any.
        rows: Those that can be tried.
        withheld: How many rows were dropped because they may speak of minors.
        empty: How many were dropped because they are blank.
        unused: The values of columns that mean something and are not used, by column.
        tensors: What the candidates bring, by name; ``None`` where no file lies beside it.
    """

    path: Path
    hashes: tuple[str, ...]
    rows: tuple[PromptRow, ...]
    withheld: int = 0
    empty: int = 0
    unused: Mapping[str, frozenset[str]] | None = None
    tensors: Mapping[str, Tensor] | None = None
    _places: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Notes which rows are for which concept: there may be thousands of both."""
        for place, row in enumerate(self.rows):
            self._places.setdefault(row.concept, []).append(place)

    @property
    def counted(self) -> str:
        """``142 rows, 20 withheld as they may speak of minors, 1 empty: N = 121``."""
        count = len(self.rows) + self.withheld + self.empty
        parts = [f"{count} row{'s' * (count != 1)}"]
        parts += [f"{self.withheld} withheld as they may speak of minors"] * bool(self.withheld)
        parts += [f"{self.empty} empty"] * bool(self.empty)
        return f"{', '.join(parts)}: N = {len(self.rows)}"

    def of(self, *concepts: str) -> list[PromptRow]:
        """The rows for any of the concepts, or for whatever concept."""
        places = (self._places.get(concept, ()) for concept in {"", *concepts})
        return [self.rows[place] for place in sorted(chain.from_iterable(places))]

    def suits(self, concept: str) -> bool:
        """Whether any row is for the concept."""
        return "" in self._places or concept in self._places

    def tensors_of(self, rows: Iterable[PromptRow]) -> dict[str, Tensor]:
        """The text states [L, D] and the noise [C, h, w] that candidates name, in float32.

        Raises:
            UsageError: there are no tensors, or they lack one of them.
        """
        wanted = {
            (kind, name): row.line
            for row in rows
            for kind, name in (("states", row.states), ("latents", row.latents))
            if name
        }
        beside = tensors_file(self.path).name
        if wanted and self.tensors is None:
            raise UsageError(
                f"{self.path}: its candidates need {beside} beside it; where the report has none, "
                f"give {STORED} of the attack's folder in the store"
            )
        found = {}
        for (kind, name), line in wanted.items():
            value = (self.tensors or {}).get(name)
            if value is None:
                raise UsageError(f"{self.path}:{line}: {beside} has no {kind} {shown(name)}")
            sound = value.ndim == KINDS[kind] and value.is_floating_point()
            if not sound or not bool(torch.isfinite(value.float()).all()):
                expected = f"{KINDS[kind]} dimensions of finite numbers"
                got = f"{list(value.shape)} of {value.dtype}"
                raise UsageError(f"{self.path}:{line}: {kind}: expected {expected}, got {got}")
            found[name] = value.float()
        return found


def read_prompt_file(path: str | Path) -> PromptFile:
    """Reads a ``.csv`` with a ``prompt`` column, or a ``.jsonl`` of objects with a ``prompt``; ``concept`` is optional.

    An object with a ``goal`` is a candidate, as ``candidates.jsonl`` of a report has them; the
    ``candidates.json`` of an attack in a store is read too. Their tensors lie beside them, see
    :func:`tensors_file`. Rows about minors and blank ones are dropped and counted.

    Raises:
        UsageError: no such file, another ending, too large, no ``prompt`` column, a bad row, or no
            row that can be tried; names the file and the line.
    """
    source = Path(path)
    if source.suffix not in (".csv", ".jsonl") and source.name != STORED:
        advice = _OTHERS.get(source.suffix, "other endings are not read")
        raise UsageError(
            f"{source}: expected a .csv or .jsonl file of prompts, or {STORED} of a store; {advice}"
        )
    data = _bytes(source, MOST_BYTES)
    hashes = [hashlib.sha256(data).hexdigest()]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    del data
    rows, unused = parse_rows(source, text)
    if not rows:
        raise UsageError(f"{source}: holds no prompts")
    tensors = None
    if _has_tensors(source):
        data = _bytes(tensors_file(source), MOST_TENSOR_BYTES)
        hashes.append(hashlib.sha256(data).hexdigest())
        tensors = _tensors(tensors_file(source), data) if any(map(_names_tensors, rows)) else {}
    full = [row for row in rows if row.prompt]
    # Published lists repeat their prompts: 5,000 rows may be ten.
    doubtful = {text for text in {row.prompt for row in full} if about_minors(text)}
    found = PromptFile(
        path=source,
        hashes=tuple(hashes),
        rows=tuple(row for row in full if row.prompt not in doubtful),
        withheld=sum(row.prompt in doubtful for row in full),
        empty=len(rows) - len(full),
        unused={name: frozenset(values) for name, values in unused.items()},
        tensors=tensors,
    )
    if not found.rows:
        raise UsageError(f"{source}: no row of it can be tried: {found.counted}")
    return found


def read_prompts(path: str | Path) -> list[PromptRow]:
    """The rows of a file that can be tried; see :func:`read_prompt_file`."""
    return list(read_prompt_file(path).rows)


def read_tensors(path: str | Path, rows: Iterable[PromptRow]) -> dict[str, Tensor]:
    """The tensors that rows of a file name; see :meth:`PromptFile.tensors_of`."""
    return read_prompt_file(path).tensors_of(rows)


def file_hashes(path: str | Path) -> tuple[str, ...]:
    """sha256 of a file of prompts, and of the tensors beside it, if there are any.

    Raises:
        UsageError: one of them cannot be read.
    """
    source = Path(path)
    read = [_bytes(source, MOST_BYTES)]
    if _has_tensors(source):
        read.append(_bytes(tensors_file(source), MOST_TENSOR_BYTES))
    return tuple(hashlib.sha256(data).hexdigest() for data in read)


def tensors_file(path: str | Path) -> Path:
    """Where the tensors of a file of candidates lie: beside it, by the same name."""
    return Path(path).with_suffix(".safetensors")


def _has_tensors(source: Path) -> bool:
    try:
        return tensors_file(source).is_file()
    except (OSError, ValueError):  # of a name that is too long, or is none
        return False


def _names_tensors(row: PromptRow) -> bool:
    return bool(row.states or row.latents)


def _bytes(path: Path, most: int) -> bytes:
    return bounded(path, most, todo="split it, or keep fewer rows")


def _tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error)[:200]  # KeyError: a type that torch has not
        raise UsageError(f"{path}: cannot be read as safetensors ({reason})") from error
