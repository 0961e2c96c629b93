"""Which weight files of a network are loaded, and whether they are all there."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.core.errors import UsageError, shown
from bench.core.files import regular
from bench.core.headers import TensorInfo, refuse_odd_numbers
from bench.core.json_files import read_object
from bench.core.weight_files import sound

__all__ = ["Weights", "find_weights", "is_there", "next_names"]

_PICKLED: Final = frozenset({".bin", ".ckpt", ".pt", ".pth"})
_VARIANTS: Final = (None, "fp16", "bf16")
_SHARD: Final = re.compile(r"[\w.-]+\.safetensors")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one network.

    Attributes:
        variant: The precision in the files' names, as in ``model.fp16.safetensors``; ``None`` where
            there are plain ones.
        files: One file, or an index and the files that it names.
        tensors: By name.
    """

    variant: str | None
    files: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]


def find_weights(folder: Path, stem: str) -> Weights:
    """The weights that are loaded from a network's folder: plain files, or else those of one precision.

    Of one precision, a single file goes before an index of several.

    Args:
        folder: The network's.
        stem: The name of its files, without endings.

    Raises:
        UsageError: there are none in safetensors, one is missing, or one is not sound.
        OSError: one cannot be read.
    """
    for variant in _VARIANTS:
        whole, index = (folder / name for name in _names(stem, variant))
        if is_there(whole):
            return Weights(variant, (whole,), _tensors([whole]))
        if is_there(index):
            return _in_shards(index, variant)
    others = sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors")
    if others:
        raise UsageError(
            f"{folder} holds no weights that are known: expected {stem}.safetensors, got {others[0]}"
        )
    if any(path.suffix in _PICKLED for path in folder.iterdir()):
        raise UsageError(
            f"{folder} holds pickled weights, and only safetensors are read; convert them"
        )
    raise UsageError(f"{folder} holds no weights; expected safetensors")


def next_names(folder: Path, stem: str, asked: Collection[str]) -> list[str]:
    """Files to ask a repository for next, in the order of :func:`find_weights`; none where nothing is left.

    Args:
        folder: The network's, as far as it is here.
        stem: The name of its files, without endings.
        asked: Names that the repository was asked for; what it has of them is here.

    Raises:
        UsageError: an index cannot be read.
    """
    for variant in _VARIANTS:
        whole, index = _names(stem, variant)
        if whole not in asked:
            return [whole]
        if is_there(folder / whole):
            return []
        if index not in asked:
            return [index]
        if is_there(folder / index):
            return [name for name in _shards(folder / index)[0] if name not in asked]
    return []


def is_there(path: Path) -> bool:
    """Whether anything lies there, if only a link to nothing."""
    return path.exists() or path.is_symlink()


def _names(stem: str, variant: str | None) -> tuple[str, str]:
    """The names of a single file and of an index."""
    middle = f".{variant}" if variant else ""
    return f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json"


def _shards(index: Path) -> tuple[list[str], set[str]]:
    """The files that an index names, and its tensors."""
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UsageError(f"{index}: weight_map: expected the file of each tensor, got none")
    names = sorted(set(map(str, shards.values())))
    for name in names:
        if not _SHARD.fullmatch(name):
            raise UsageError(f"{index}: expected names of files beside it, got {shown(name)}")
    return names, set(shards)


def _in_shards(index: Path, variant: str | None) -> Weights:
    names, tensors = _shards(index)
    files = [index.with_name(name) for name in names]
    for file in files:
        if not file.exists():
            raise UsageError(f"{index} names {file.name}, which is not there; download it again")
    held = _tensors(files)
    if lacking := sorted(tensors - held.keys()):
        raise UsageError(f"{index} names {shown(lacking[0])}, which is in none of its files")
    return Weights(variant, (index, *files), held)


def _tensors(files: list[Path]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for path in files:
        found = sound(regular(path))
        refuse_odd_numbers(found, path)
        tensors.update(found)
    return tensors
