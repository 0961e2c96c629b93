"""The header of a safetensors file: names, shapes, precisions and metadata, no values.

The format is eight bytes with the length of a JSON text, that text, and the values one after the
other (https://github.com/huggingface/safetensors, "Format"). Reading it takes milliseconds at any
size, so what a file holds is known when a plan is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from bench.core.digest import JSON, parse_json
from bench.core.errors import UsageError, shown
from bench.core.files import regular

__all__ = [
    "LFS_BEGINNING",
    "Header",
    "TensorInfo",
    "header_in",
    "read_header",
    "refuse_odd_numbers",
    "unreadable",
]

# safetensors' own cap is 100 MB. The UNet of SDXL, with 1,680 tensors, has a header of 0.2 MB.
_LONGEST = 8 * 2**20
_MOST = 20_000
_DIMENSIONS = 8
_NAME = 500
_METADATA = 2**20
_BITS = {
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
_FLOATS = {"F16", "BF16", "F32", "F64"}
# What else bears the ending .safetensors, by its first bytes.
LFS_BEGINNING: Final = b"version https://git-lfs"
"""The first bytes of a pointer of Git LFS, which stands in a file's place until that is fetched."""
_BEGINNINGS = (
    (LFS_BEGINNING, "a Git LFS pointer, not the file: run `git lfs pull` there"),
    (b"<", "a page of the web, not the file: the download asked for a login, or is not there"),
    (b"PK\x03\x04", "a pickle of torch, renamed: it can run code when it is read; convert it"),
    (b"\x80", "a pickle, renamed: it can run code when it is read; convert it"),
    (b"GGUF", "a GGUF file, renamed; give the model in safetensors"),
    (b"\x1f\x8b", "a gzip archive, renamed; unpack it"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The entry of one tensor in a header.

    Attributes:
        dtype: As safetensors calls it: ``F32``, ``F16``, ``BF16``, ...
        shape: Its sizes.
        begin: Where its bytes begin, from the end of the header.
        end: Where they end.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of a file, without their values, and its metadata.

    Attributes:
        tensors: By name.
        metadata: What its author wrote beside.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The header of a safetensors file; no value is read.

    Raises:
        UsageError: it is not there, no regular file, no safetensors, incomplete, or beyond any sane
            size: a header over 8 MiB, 20,000 tensors, 8 dimensions.
    """
    try:
        with regular(path).open("rb") as file:
            return header_in(file, path.stat().st_size)[0]
    except OSError as error:
        raise unreadable(path, error.strerror) from error
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise unreadable(path, error) from error


def header_in(file: BinaryIO, size: int) -> tuple[Header, bytes]:
    """The header of a file that was just opened, and the bytes read: what comes next are the values.

    Args:
        file: At its start.
        size: Its bytes.

    Raises:
        ValueError: it cannot be read; the message is the reason.
        OSError: of the disk.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(_LONGEST, size - 8):
        raise ValueError(_beginning(start + file.read(32), size, length))
    text = file.read(length)
    return _parsed(text, size - 8 - length), start + text


def refuse_odd_numbers(tensors: Mapping[str, TensorInfo], origin: object) -> None:
    """Refuses tensors of whole numbers, or quantised ones.

    Args:
        tensors: By name.
        origin: What they were read from, for the error.

    Raises:
        UsageError: with the first of them. Tables of positions, which older versions stored, pass.
    """
    for name, info in tensors.items():
        if info.dtype not in _FLOATS and not name.endswith("position_ids"):
            raise UsageError(
                f"expected finite numbers, got others in {name} of {origin}: it is of "
                f"{info.dtype}; save it as float32, float16 or bfloat16"
            )


def unreadable(path: Path, reason: object) -> UsageError:
    """The error of a file that is no safetensors, or no sound one."""
    return UsageError(f"expected safetensors, got {path}, which cannot be read: {reason}")


def _beginning(start: bytes, size: int, length: int) -> str:
    """Why a file that begins so cannot be read."""
    if not size:
        return "it is empty; fetch it again"
    for signature, reason in _BEGINNINGS:
        if start.startswith(signature):
            return f"it is {reason}"
    if size < 10:
        return f"it has {size} bytes; fetch it again"
    if length <= 100_000_000 and length > _LONGEST:
        return f"its header would have {length} bytes, where {_LONGEST} are allowed"
    if length <= _LONGEST:
        return f"it is cut off in its header, after {size} bytes; fetch it again"
    return "it does not begin as safetensors do; fetch it again, or convert it"


def _parsed(text: bytes, room: int) -> Header:
    """Of a header's text, with so many bytes of values after it.

    Raises:
        ValueError: with the reason.
    """
    try:
        value = parse_json(text)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"its header is not UTF-8 at byte {error.start}; fetch it again"
        ) from error
    except ValueError as error:
        raise ValueError(f"its header is no JSON ({shown(str(error))}); fetch it again") from error
    if not isinstance(value, Mapping) or not text.startswith(b"{"):
        raise ValueError("its header is no JSON object; fetch it again")
    entries = dict(value)
    metadata = _metadata(entries.pop("__metadata__", None))
    if len(entries) > _MOST:
        raise ValueError(f"it holds {len(entries)} tensors, where {_MOST} are allowed")
    spans: list[tuple[int, int]] = []
    tensors = {name: _info(name, entry, spans) for name, entry in entries.items()}
    place = 0
    for begin, end in sorted(spans):
        if begin != place:
            raise ValueError("its tensors overlap or leave gaps; the file is damaged")
        place = end
    if place > room:
        raise ValueError(f"it is cut off: {room} bytes of values of {place}; fetch it again")
    if place < room:
        raise ValueError(f"it goes on after its tensors, by {room - place} bytes; fetch it again")
    return Header(tensors, metadata)


def _metadata(value: JSON) -> dict[str, str]:
    match value:
        case None:
            return {}
        case dict() if all(isinstance(said, str) for said in value.values()):
            metadata = {name: str(said) for name, said in value.items()}
            if sum(map(len, metadata.values())) <= _METADATA:
                return metadata
            raise ValueError(f"its metadata are longer than the {_METADATA} characters allowed")
    raise ValueError(f"its metadata are no mapping of texts, but {shown(value)}")


def _info(name: str, entry: Any, spans: list[tuple[int, int]]) -> TensorInfo:
    if len(name) > _NAME:
        raise ValueError(f"a tensor's name has {len(name)} characters, where {_NAME} are allowed")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest}:
            whole = all(type(n) is int and 0 <= n < 2**63 for n in (*shape, begin, end))
            if not rest and whole and len(shape) <= _DIMENSIONS and dtype in _BITS:
                bits = math.prod(shape) * _BITS[dtype]
                if bits != 8 * (end - begin):
                    raise ValueError(
                        f"{shown(name)} has {end - begin} bytes, where its shape needs {bits // 8}"
                    )
                spans.append((begin, end))
                return TensorInfo(dtype, tuple(shape), begin, end)
    raise ValueError(f"the entry of {shown(name)} is not as safetensors writes it: {shown(entry)}")
