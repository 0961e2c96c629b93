"""Safetensors files as they lie on the disk: header, hash and whether every number is finite, without torch."""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from bench.digest import parse_json
from bench.errors import shown

__all__ = ["Scan", "Tensor", "scan"]

_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8,
    "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_EXPONENTS: Final[dict[str, tuple[type[np.unsignedinteger[Any]], int]]] = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
"""The bits of the exponent: all of them are set in infinities and in what is not a number, nowhere else."""
_MAX_HEADER: Final = 16 * 2**20  # bytes; Stable Diffusion's largest has 0.1 million
_CHUNK: Final = 2**22
_LFS: Final = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a header says of one tensor.

    Attributes:
        dtype: ``F16``, ``F32``, ...
        shape: Its sizes.
        begin: Where its bytes begin, from the start of the data.
        end: Where they end.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over a file found.

    Attributes:
        sha256: Of its bytes, 64 hexadecimal digits.
        tensors: By name; empty if the file is not sound or holds none.
        problem: Why a safetensors file cannot be used; ``None`` for a sound one, and for all others.
    """

    sha256: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    problem: str | None = None


class _UnsoundError(ValueError):
    """The message is the reason."""


def scan(path: Path) -> Scan:
    """Hashes a file; of one named ``*.safetensors``, checks the header and every number too.

    A file that is still the same (path, size, time of the last change) is read once in a process.

    Raises:
        OSError: it cannot be read, or is not a regular file (nor a link to one).
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "expected a regular file, got a folder, a pipe or a device", str(path))
    return _scan(path.resolve(), status.st_ino, status.st_size, status.st_mtime_ns, path.suffix)


@lru_cache(maxsize=4096)
def _scan(path: Path, inode: int, size: int, changed: int, suffix: str) -> Scan:
    """See :func:`scan`; the file's status is in the key, so that a changed file is read again."""
    with path.open("rb") as file:
        if suffix != ".safetensors":
            return Scan(hashlib.file_digest(file, "sha256").hexdigest())
        try:
            tensors, head = _header(file, size)
        except _UnsoundError as error:
            file.seek(0)
            return Scan(hashlib.file_digest(file, "sha256").hexdigest(), {}, str(error))
        sha = hashlib.sha256(head)
        bad = [name for name, tensor in tensors.items() if not _finite(file, tensor, sha)]
    told = f"{bad[0]} holds numbers that are not finite" if bad else None
    if told and len(bad) > 1:
        told += f", as {len(bad) - 1} more of {len(tensors)} tensors do"
    return Scan(sha.hexdigest(), tensors, told)


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Tensor], bytes]:
    """The tensors in the order of their bytes, and what stands before the data."""
    start = file.read(len(_LFS))
    if start == _LFS:
        raise _UnsoundError("is a Git LFS pointer, not the weights; run git lfs pull")
    if size < 8:
        raise _UnsoundError(f"is no safetensors file: it has {size} bytes")
    length = int.from_bytes(start[:8], "little")
    if length > _MAX_HEADER:
        raise _UnsoundError("is no safetensors file: it does not begin with the size of a header")
    if 8 + length > size:
        raise _UnsoundError("is cut short: even its header is not complete; download it again")
    file.seek(8)
    text = file.read(length)
    try:
        items = parse_json(text)
    except ValueError as error:
        raise _UnsoundError(f"has a header that is no JSON: {error}") from error
    if not isinstance(items, dict):
        raise _UnsoundError("has a header that is no JSON object")
    about = items.get("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(one, str) for one in about.values()):
        raise _UnsoundError(f"has a header whose __metadata__ is no text by name: {shown(about)}")
    named = {name: _tensor(name, item) for name, item in items.items() if name != "__metadata__"}
    tensors = dict(sorted(named.items(), key=lambda item: (item[1].begin, item[1].end)))
    end = 0
    for name, tensor in tensors.items():
        if tensor.begin != end:
            raise _UnsoundError(f"is damaged: the bytes of {shown(name)} do not follow the last")
        end = tensor.end
    have = size - 8 - length
    if end > have:
        raise _UnsoundError(f"is cut short: it holds {have} of {end} bytes; download it again")
    if end < have:
        raise _UnsoundError(f"is damaged: it holds {have} bytes where its header names {end}")
    return tensors, start[:8] + text


def _tensor(name: str, item: object) -> Tensor:
    match item:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise _UnsoundError(f"has a header that says of {shown(name)}: {shown(item)}")
    if dtype not in _BYTES:
        known = ", ".join(_BYTES)
        raise _UnsoundError(f"holds {shown(name)} as {shown(dtype)}; expected one of {known}")
    sizes = [n for n in shape if type(n) is int and 0 <= n < 2**48]
    if len(sizes) != len(shape) or len(shape) > 8:
        raise _UnsoundError(f"has a header with the shape {shown(shape)} of {shown(name)}")
    if end - begin != math.prod(sizes) * _BYTES[dtype] or begin < 0:
        raise _UnsoundError(f"is damaged: {shown(name)} has the wrong number of bytes")
    return Tensor(dtype, tuple(sizes), begin, end)


def _finite(file: BinaryIO, tensor: Tensor, sha: Any) -> bool:
    """Whether a tensor's numbers are finite; its bytes, which are next in the file, are hashed."""
    kind, mask = _EXPONENTS.get(tensor.dtype, (np.uint8, 0))
    left, finite = tensor.end - tensor.begin, True
    while left:
        data = file.read(min(left, _CHUNK))
        if not data:
            raise OSError(0, "became shorter while it was read", file.name)
        sha.update(data)
        left -= len(data)
        if mask and finite:
            exponents = np.frombuffer(data, np.dtype(kind).newbyteorder("<")) & kind(mask)
            finite = bool(exponents.max(initial=0) < mask)
    return finite
