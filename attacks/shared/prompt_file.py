"""Reads a user's prompts, and published candidates with their text states and noise.

A file is read once, with the tensors beside it: what is tried is what the digest names, whatever
becomes of them meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError

from bench.core.errors import UsageError, shown
from bench.core.files import bounded
from bench.core.lazy import torch
from bench.interfaces.prompt_source import Picked
from bench.toolkit.prompt_files.content import PromptFile
from bench.toolkit.prompt_files.formats import KINDS, STORED
from bench.toolkit.prompt_files.read import read_rows, source_bytes
from bench.toolkit.prompt_files.rows import PromptRow

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CandidateFile",
    "PromptRow",
    "file_hashes",
    "read_prompt_file",
    "read_prompts",
    "read_tensors",
    "tensors_file",
]

MOST_TENSOR_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class CandidateFile:
    """The content of a prompt file, and of the tensors beside it, when they were read.

    Attributes:
        prompts: The file.
        hashes: sha256 of the file, and of the tensors beside it, if there are any.
        tensors: What the candidates bring, by name; ``None`` where no file lies beside it.
    """

    prompts: PromptFile
    hashes: tuple[str, ...]
    tensors: Mapping[str, Tensor] | None = None

    @property
    def rows(self) -> tuple[PromptRow, ...]:
        """The rows that can be tried."""
        return self.prompts.tried

    def of(self, *concepts: str) -> list[PromptRow]:
        """The rows for any of the concepts, or for whatever concept."""
        return self.prompts.of(*concepts)

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
        path = self.prompts.path
        beside = tensors_file(path).name
        if wanted and self.tensors is None:
            raise UsageError(
                f"{path}: its candidates need {beside} beside it; where the report has none, "
                f"give {STORED} of the attack's folder in the store"
            )
        found = {}
        for (kind, name), line in wanted.items():
            value = (self.tensors or {}).get(name)
            if value is None:
                raise UsageError(f"{path}:{line}: {beside} has no {kind} {shown(name)}")
            sound = value.ndim == KINDS[kind] and value.is_floating_point()
            if not sound or not bool(torch.isfinite(value.float()).all()):
                expected = f"{KINDS[kind]} dimensions of finite numbers"
                got = f"{list(value.shape)} of {value.dtype}"
                raise UsageError(f"{path}:{line}: {kind}: expected {expected}, got {got}")
            found[name] = value.float()
        return found


def read_prompt_file(path: str | Path, picked: Picked | None = None) -> CandidateFile:
    """Reads a file of prompts, whose format its name says; see ``docs/prompt-files.md``.

    A row with a ``goal`` is a candidate, as ``candidates.jsonl`` of a report has them. The
    ``candidates.json`` of an attack in a store is read too. Their tensors lie beside them, see
    :func:`tensors_file`.

    Args:
        path: Where it lies.
        picked: What is asked of it; by default, all that its header says.

    Raises:
        UsageError: see :func:`bench.toolkit.prompt_files.read.read_rows`; or the tensors cannot be read.
    """
    source = Path(path)
    data = source_bytes(source)
    content = read_rows(source, data, picked or Picked())
    hashes = [content.sha256]
    tensors = None
    if _has_tensors(source):
        data = _tensor_bytes(source)
        hashes.append(hashlib.sha256(data).hexdigest())
        named = any(map(_names_tensors, content.rows))
        tensors = _tensors(tensors_file(source), data) if named else {}
    return CandidateFile(content, tuple(hashes), tensors)


def read_prompts(path: str | Path) -> list[PromptRow]:
    """The rows of a file that can be tried; see :func:`read_prompt_file`."""
    return list(read_prompt_file(path).rows)


def read_tensors(path: str | Path, rows: Iterable[PromptRow]) -> dict[str, Tensor]:
    """The tensors that rows of a file name; see :meth:`CandidateFile.tensors_of`."""
    return read_prompt_file(path).tensors_of(rows)


def file_hashes(path: str | Path) -> tuple[str, ...]:
    """sha256 of a file of prompts, and of the tensors beside it, if there are any.

    Raises:
        UsageError: one of them cannot be read.
    """
    source = Path(path)
    read = [source_bytes(source)]
    if _has_tensors(source):
        read.append(_tensor_bytes(source))
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


def _tensor_bytes(source: Path) -> bytes:
    return bounded(tensors_file(source), MOST_TENSOR_BYTES, todo="split it, or keep fewer rows")


def _tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error)[:200]  # KeyError: a type that torch has not
        raise UsageError(f"{path}: cannot be read as safetensors ({reason})") from error
