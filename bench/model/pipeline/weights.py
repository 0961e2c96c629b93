"""Which weight files a network's folder offers, and whether they are all there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.core.errors import UsageError, shown
from bench.core.headers import TensorInfo, refuse_odd_numbers
from bench.core.json_files import read_object
from bench.core.weight_files import sound

__all__ = ["Weights", "find_weights"]

_STEMS: Final = ("diffusion_pytorch_model", "model")
"""The names that diffusers and transformers give to a file of weights."""
_PICKLED: Final = frozenset({".bin", ".ckpt", ".pt", ".pth"})
_PRECISIONS: Final = ("fp16", "bf16")
_SHARD: Final = re.compile(r"[\w.-]+\.safetensors")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one network.

    Attributes:
        variant: The precision in the files' names, as in ``model.fp16.safetensors``; ``None`` where
            there are plain ones.
        tensors: By name.
    """

    variant: str | None
    tensors: Mapping[str, TensorInfo]


def find_weights(folder: Path) -> Weights:
    """The weights that are loaded from a network's folder: plain files, or else those of one precision.

    Raises:
        UsageError: there are none in safetensors, one is missing, or one is not sound.
        OSError: one cannot be read.
    """
    for variant in (None, *_PRECISIONS):
        for stem in _STEMS:
            if files := _named(folder, stem, variant):
                return Weights(variant, _tensors(files))
    others = sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors")
    if others:
        expected = f"expected {' or '.join(f'{stem}.safetensors' for stem in _STEMS)}"
        raise UsageError(f"{folder} holds no weights that are known: {expected}, got {others[0]}")
    if any(path.suffix in _PICKLED for path in folder.iterdir()):
        raise UsageError(
            f"{folder} holds pickled weights, and only safetensors are read; convert them"
        )
    raise UsageError(f"{folder} holds no weights; expected safetensors")


def _named(folder: Path, stem: str, variant: str | None) -> list[Path]:
    """The files of a variant; none where it is not there."""
    middle = f".{variant}" if variant else ""
    index = folder / f"{stem}.safetensors.index{middle}.json"
    whole = folder / f"{stem}{middle}.safetensors"
    found = [whole] if whole.exists() or whole.is_symlink() else []
    if not index.exists():
        return found
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UsageError(f"{index}: weight_map: expected the file of each tensor, got none")
    for name in sorted(set(map(str, shards.values()))):
        if not _SHARD.fullmatch(name):
            raise UsageError(f"{index}: expected names of files beside it, got {shown(name)}")
        if not (folder / name).exists():
            raise UsageError(f"{index} names {name}, which is not there; download it again")
        found.append(folder / name)
    held = _tensors(found)
    if lacking := sorted(shards.keys() - held.keys()):
        raise UsageError(f"{index} names {shown(lacking[0])}, which is in none of its files")
    return found


def _tensors(files: list[Path]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for path in files:
        found = sound(path)
        refuse_odd_numbers(found, path)
        tensors.update(found)
    return tensors
