"""One pass over a file of weights: its hash, and whether every number is finite, without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from bench.core.errors import UsageError
from bench.core.files import only_regular
from bench.core.headers import TensorInfo, header_in, unreadable

__all__ = ["Scan", "scan", "sound"]

_EXPONENTS: Final[dict[str, tuple[type[np.unsignedinteger[Any]], int]]] = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
"""The bits of the exponent: all of them are set in infinities and in what is not a number, nowhere else."""
_CHUNK: Final = 2**22


@dataclass(frozen=True, slots=True)
class Scan:
    """The findings of one pass over a file.

    Attributes:
        sha256: Of its bytes, 64 hexadecimal digits.
        tensors: By name; none where the file is no safetensors.
        reason: Why a ``*.safetensors`` cannot be read; ``None`` for one that can, and for all others.
        not_finite: Names of tensors that hold infinities, or what is no number.
    """

    sha256: str
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    reason: str | None = None
    not_finite: tuple[str, ...] = ()


def scan(path: Path) -> Scan:
    """Hashes a file; of one named ``*.safetensors``, checks the header and every number too.

    A file that is still the same (path, size, time of the last change) is read once in a process.

    Raises:
        UsageError: it is there, but no regular file (nor a link to one).
        OSError: it cannot be read.
    """
    status = only_regular(path).stat()
    return _scan(path.resolve(), status.st_ino, status.st_size, status.st_mtime_ns, path.suffix)


def sound(path: Path) -> Mapping[str, TensorInfo]:
    """The tensors of a safetensors file whose numbers are all finite; none of another file.

    Raises:
        UsageError: it is not sound.
        OSError: it cannot be read.
    """
    found = scan(path)
    if found.reason is not None:
        raise unreadable(path, found.reason)
    if found.not_finite:
        first, *more = found.not_finite
        others = f" and {len(more)} more" if more else ""
        raise UsageError(
            f"expected finite numbers, got others in {first}{others} of {path}; the file is "
            "damaged, or its training diverged"
        )
    return found.tensors


@lru_cache(maxsize=4096)
def _scan(path: Path, inode: int, size: int, changed: int, suffix: str) -> Scan:
    """See :func:`scan`; the file's status is in the key, so that a changed file is read again."""
    with path.open("rb") as file:
        if suffix != ".safetensors":
            return Scan(hashlib.file_digest(file, "sha256").hexdigest())
        try:
            header, head = header_in(file, size)
        except ValueError as error:
            file.seek(0)
            return Scan(hashlib.file_digest(file, "sha256").hexdigest(), reason=str(error))
        sha = hashlib.sha256(head)
        order = sorted(header.tensors.items(), key=lambda item: (item[1].begin, item[1].end))
        bad = tuple(name for name, info in order if not _finite(file, info, sha))
    return Scan(sha.hexdigest(), header.tensors, not_finite=bad)


def _finite(file: BinaryIO, tensor: TensorInfo, sha: Any) -> bool:
    """Whether a tensor's numbers are finite; its bytes, which are next in the file, are hashed."""
    kind, mask = _EXPONENTS.get(tensor.dtype, (np.uint8, 0))
    left, finite = tensor.size, True
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
