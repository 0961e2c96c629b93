"""Reads what a cell has stored, and says in one line where that is not what it should be.

The manifest of an entry says that its files are those that were written. This says that they can be
used. A file that was damaged together with its manifest, or written by a broken library, is a
`DamagedError`. A report then goes on without it, and a run computes it again.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bench.core.digest import DamagedError
from bench.run.store import Entry

__all__ = [
    "Content",
    "Pictures",
    "check",
    "damaged",
    "each_picture",
    "read",
    "read_pictures",
    "read_rows",
]

_NUMBER = (int, float)
_TEXT = (str,)
_SAMPLE = {
    **dict.fromkeys(("status", "reason", "image_sha256"), "text"),
    "image_seed": "number",
}
_TRIAL = {
    **dict.fromkeys(("prompt_set", "goal", "prompt", "variant"), "text"),
    **dict.fromkeys(("candidate", "draw", "queries", "own_score"), "number"),
    **_SAMPLE,
}
_SCORE = {
    **dict.fromkeys(("label", "status", "reason"), "text"),
    "image": "number",
    "value": "number",
}
_COLUMNS = {"reference": _SAMPLE, "trial": _TRIAL, "utility": _SAMPLE, "score": _SCORE}
_CANDIDATE = {
    **dict.fromkeys(("goal", "prompt", "variant"), _TEXT),
    "queries": _NUMBER,
    "own_score": (*_NUMBER, type(None)),
    **dict.fromkeys(("states", "latents"), (bool,)),
}
_EDIT = {
    **dict.fromkeys(("seconds", "images", "gradient_steps"), _NUMBER),
    **dict.fromkeys(("parameters_touched", "parameters_total"), _NUMBER),
    "peak_memory_mb": (*_NUMBER, type(None)),
    "slots": (list,),
    "method": _TEXT,
}
_REUSED = {"reused_seconds": _NUMBER}
_TIMING = dict.fromkeys(("seconds", "model_seconds"), _NUMBER)
_PICTURES = "pictures.npz"
_IMAGE_AXES = 4
_NPY_1, _NPY_HEAD = b"\x93NUMPY\x01\x00", 10
"""How a ``.npy`` file of version 1.0 begins, and how many bytes tell how long its header is."""


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The thumbnails of a trial.

    Attributes:
        images: uint8 [N, H, W, 3].
        places: Which of the trial's images each is, int [N].
    """

    images: NDArray[np.uint8]
    places: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Content:
    """The part of an entry that others read, as far as its kind has it.

    Attributes:
        rows: Of a cell that samples, a row per image; of a score, a row per image and label.
        candidates: What an attack found, an object per candidate.
    """

    rows: pa.Table | None = None
    candidates: list[dict[str, Any]] | None = None


def check(entry: Entry) -> None:
    """Reads all that others may read of an entry.

    Raises:
        DamagedError: it is not what an entry of its kind holds.
    """
    read(entry)
    if entry.kind == "trial":
        read_pictures(entry)


def read(entry: Entry) -> Content:
    """Reads everything that a report needs of an entry, but for the pictures of a trial.

    Raises:
        DamagedError: it is not what an entry of its kind holds.
    """
    _typed(entry.record.get("timing"), _TIMING, "record.json: timing")
    return _READ.get(entry.kind, _nothing)(entry)


def read_rows(entry: Entry) -> pa.Table:
    """Returns the rows of a cell that samples or scores, with the columns that are always there.

    Raises:
        DamagedError: they are not as such a cell writes them.
    """
    name = "rows.parquet"
    data = _bytes(entry, name)
    try:
        # One small file: no threads, which cost more than they save.
        rows = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except (ValueError, OSError, OverflowError, TypeError) as error:
        raise damaged(name, error) from error
    types = dict(zip(rows.schema.names, rows.schema.types, strict=True))
    for column, kind in _COLUMNS[entry.kind].items():
        if column not in types:
            raise DamagedError(f"{name}: expected a column {column!r}, got none")
        if len(rows) and not _KINDS[kind](types[column]):
            raise DamagedError(f"{name}: expected {column!r} of {kind}, got {types[column]}")
    return rows


def read_pictures(entry: Entry) -> Pictures:
    """Returns the thumbnails of a trial.

    Raises:
        DamagedError: they are not as a trial writes them.
    """
    with _as_damage(_PICTURES), _archive(entry) as file:
        images, places = (_array(file.read(f"{key}.npy")) for key in ("images", "places"))
    kept = Pictures(images, places)
    _check_images(images.shape, images.dtype)
    if kept.places.dtype.kind != "i" or kept.places.shape != (len(kept.images),):
        raise DamagedError(f"{_PICTURES}: expected a whole number as the place of each picture")
    return kept


def each_picture(entry: Entry) -> Iterator[NDArray[np.uint8]]:
    """Yields the thumbnails of a trial one by one: what nobody asks for is not unpacked.

    Raises:
        DamagedError: they are not as a trial writes them.
    """
    with _as_damage(_PICTURES), _archive(entry) as file, file.open("images.npy") as packed:
        start = packed.read(_NPY_HEAD)
        layout = (
            _layout(start + packed.read(_head_size(start))) if start.startswith(_NPY_1) else None
        )
        if layout is not None and not layout[1]:
            shape, _, dtype = layout
            _check_images(shape, dtype)
            for _ in range(shape[0]):
                pixels = packed.read(math.prod(shape[1:]))
                yield np.frombuffer(pixels, np.uint8).reshape(shape[1:])
            return
    yield from read_pictures(entry).images


def _candidates(entry: Entry) -> list[dict[str, Any]]:
    name = "candidates.json"
    rows = _json(entry, name)
    if not isinstance(rows, list):
        raise DamagedError(f"{name}: expected a list of candidates, got {type(rows).__name__}")
    for number, row in enumerate(rows):
        _typed(row, _CANDIDATE, f"{name}: candidate {number}")
        if not isinstance(row.get("weights", 0), int):
            raise DamagedError(f"{name}: candidate {number}: expected 'weights' as it was written")
        if (
            type(start := row.get("start", 0)) is not int
            or start < 0
            or (start and not row["latents"])
        ):
            raise DamagedError(f"{name}: candidate {number}: expected 'start' as it was written")
        if not isinstance(row.get("trace"), dict | None):
            raise DamagedError(f"{name}: candidate {number}: expected a trace, got another value")
    wanted = {f"{k}/{i}" for i, row in enumerate(rows) for k in ("states", "latents") if row[k]}
    wanted |= {f"weights/{row['weights']}" for row in rows if "weights" in row}
    there = _tensor_names(entry, "candidates.safetensors") if wanted else set()
    there |= {"/".join(tensor.split("/", 2)[:2]) for tensor in there}
    if lacking := sorted(wanted - there):
        raise DamagedError(f"candidates.safetensors: expected {lacking[0]!r}, got no such tensor")
    return rows


def _edit(entry: Entry) -> Content:
    _typed(entry.record.get("cell"), _EDIT, "record.json: cell")
    if not isinstance(about := _json(entry, "edit.json"), dict):
        raise DamagedError("edit.json: expected an object, got another value")
    _tensor_names(entry, "weights.safetensors")
    if about.get("hooks"):
        _tensor_names(entry, "hooks.safetensors")
    return Content()


def _rows(entry: Entry) -> Content:
    return Content(rows=read_rows(entry))


def _attack(entry: Entry) -> Content:
    about = entry.record.get("cell")
    known = _REUSED if isinstance(about, Mapping) and "reused_seconds" in about else {}
    _typed(about, known, "record.json: cell")
    return Content(candidates=_candidates(entry))


def _nothing(entry: Entry) -> Content:
    """Nobody reads files of other kinds."""
    return Content()


def _file(entry: Entry, name: str) -> Any:
    if name not in entry.files:
        raise DamagedError(f"expected a file {name}, got {sorted(entry.files)}")
    return entry.file(name)


def _bytes(entry: Entry, name: str) -> bytes:
    _file(entry, name)
    return entry.read_bytes(name)


def _json(entry: Entry, name: str) -> Any:
    try:
        return json.loads(_bytes(entry, name))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise damaged(name, error) from error


def _archive(entry: Entry) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(_bytes(entry, _PICTURES)))


@contextmanager
def _as_damage(name: str) -> Iterator[None]:
    """Tells the errors of an archive and its arrays as damage."""
    try:
        yield
    except DamagedError:
        raise
    except (ValueError, OSError, EOFError, KeyError, AttributeError, TypeError) as error:
        raise damaged(name, error) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError) as error:
        raise damaged(name, error) from error


def _array(data: bytes) -> NDArray[Any]:
    """An array of a ``.npy`` file: as numpy reads it, in a fifth of the time.

    Thousands of files have the same header, and numpy reads each as a Python expression.
    """
    start = _NPY_HEAD + _head_size(data)
    if not data.startswith(_NPY_1):  # a header of 64 KiB and more, which no array of ours has
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    shape, by_columns, dtype = _layout(data[:start])
    flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=start)
    return flat.reshape(shape, order="F" if by_columns else "C")


@lru_cache(maxsize=256)
def _layout(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The shape, whether columns come first, and the type that a header tells."""
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(head[len(_NPY_1) :]))
    if dtype.hasobject:
        raise ValueError("expected numbers, got pickled objects")
    return shape, by_columns, dtype


def _head_size(data: bytes) -> int:
    """How long the header is, by the bytes before it."""
    return int.from_bytes(data[_NPY_HEAD - 2 : _NPY_HEAD], "little")


def _check_images(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype != np.uint8 or len(shape) != _IMAGE_AXES or shape[3:] != (3,):
        raise DamagedError(
            f"{_PICTURES}: expected uint8 of shape [N, H, W, 3], got {dtype} of {shape}"
        )


def _tensor_names(entry: Entry, name: str) -> set[str]:
    path = _file(entry, name)
    try:
        with safe_open(path, framework="numpy") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise damaged(name, error) from error


def _typed(value: object, kinds: Mapping[str, tuple[type, ...]], where: str) -> None:
    if not isinstance(value, Mapping):
        raise DamagedError(f"{where}: expected an object, got {type(value).__name__}")
    for key, types in kinds.items():
        if not isinstance(value.get(key, ...), types):
            raise DamagedError(f"{where}: expected {key!r} as it was written, got another value")


def damaged(name: str, error: Exception) -> DamagedError:
    """The damage that an error of a library means for a file; one of the system is raised as it is."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        raise error  # the file could not be read at all: that says nothing of what it holds
    told = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DamagedError(f"{name}: {told[:200]}")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


_KINDS: dict[str, Callable[[pa.DataType], bool]] = {
    "text": _is_text,
    "number": _is_number,
}
_READ: dict[str, Callable[[Entry], Content]] = {
    "edit": _edit,
    "attack": _attack,
    **dict.fromkeys(_COLUMNS, _rows),
}
