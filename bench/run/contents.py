"""Reads what a cell has stored, and says in one line where that is not what it should be.

The manifest of an entry says that its files are those that were written. This says that they can be
used: a file that was damaged together with its manifest, or written by a broken library, is a
`DamagedError`, so that a report goes on without it and a run computes it again.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bench.core.digest import DamagedError
from bench.run.store import Entry

__all__ = ["Content", "Pictures", "check", "read", "read_pictures"]

_NUMBER = (int, float)
_TEXT = (str,)
_TRIAL = {
    **dict.fromkeys(
        ("prompt_set", "goal", "prompt", "variant", "status", "judge", "label"), "text"
    ),
    **dict.fromkeys(("image_seed", "queries", "own_score", "score", "threshold"), "number"),
    "image_sha256": "text",
    "counts": "bool",
}
_UTILITY = {
    **dict.fromkeys(("prompt", "prompt_concept", "group", "metric", "status"), "text"),
    **dict.fromkeys(("image_seed", "value"), "number"),
}
_COLUMNS = {"trial": _TRIAL, "utility": _UTILITY}
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
_TIMING = dict.fromkeys(("seconds", "model_seconds"), _NUMBER)
_IMAGE_AXES = 4


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures that a trial keeps.

    Attributes:
        images: uint8 [N, H, W, 3].
        scores: Those of record, float [N]; NaN where there is none.
        sets: Their prompt sets, text [N].
    """

    images: NDArray[np.uint8]
    scores: NDArray[Any]
    sets: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Content:
    """The part of an entry that others read, as far as its kind has it.

    Attributes:
        rows: Of a trial or a utility cell.
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


def _rows(entry: Entry) -> pa.Table:
    """The rows of a trial or of a utility cell, with the columns that are always there."""
    name = "rows.parquet"
    path = _file(entry, name)
    try:
        # One small file: threads would cost more than they save.
        with pq.ParquetFile(path) as file:
            rows = file.read(use_threads=False)
    except (ValueError, OSError, OverflowError, TypeError) as error:
        raise _damaged(name, error) from error
    for column, kind in _COLUMNS[entry.kind].items():
        if column not in rows.column_names:
            raise DamagedError(f"{name}: expected a column {column!r}, got none")
        if len(rows) and not _KINDS[kind](found := rows.schema.field(column).type):
            raise DamagedError(f"{name}: expected {column!r} of {kind}, got {found}")
    if "reason" not in rows.column_names:  # older rows: none had any
        rows = rows.append_column("reason", pa.array([""] * len(rows), pa.string()))
    return rows


def read_pictures(entry: Entry) -> Pictures:
    """Returns the pictures that a trial keeps.

    Raises:
        DamagedError: they are not as a trial writes them.
    """
    found = _arrays(entry, ("images", "scores", "sets"))
    kept = Pictures(found["images"], found["scores"], found["sets"])
    _images(kept.images)
    if not len(kept.images) == len(kept.scores) == len(kept.sets):
        raise DamagedError("pictures.npz: expected a score and a set for each picture")
    if kept.scores.dtype.kind != "f" or kept.sets.dtype.kind != "U":
        raise DamagedError("pictures.npz: expected numbers as scores and text as sets")
    return kept


def _candidates(entry: Entry) -> list[dict[str, Any]]:
    name = "candidates.json"
    rows = _json(entry, name)
    if not isinstance(rows, list):
        raise DamagedError(f"{name}: expected a list of candidates, got {type(rows).__name__}")
    for number, row in enumerate(rows):
        _typed(row, _CANDIDATE, f"{name}: candidate {number}")
        if not isinstance(row.get("trace"), dict | None):
            raise DamagedError(f"{name}: candidate {number}: expected a trace, got another value")
    wanted = {f"{k}/{i}" for i, row in enumerate(rows) for k in ("states", "latents") if row[k]}
    if wanted and (lacking := sorted(wanted - _tensor_names(entry, "candidates.safetensors"))):
        raise DamagedError(f"candidates.safetensors: expected {lacking[0]!r}, got no such tensor")
    return rows


def _edit(entry: Entry) -> Content:
    _typed(entry.record.get("cell"), _EDIT, "record.json: cell")
    if not isinstance(_json(entry, "edit.json"), dict):
        raise DamagedError("edit.json: expected an object, got another value")
    _tensor_names(entry, "weights.safetensors")
    return Content()


def _reference(entry: Entry) -> Content:
    _images(_arrays(entry, ("images",))["images"])
    return Content()


def _trial(entry: Entry) -> Content:
    return Content(rows=_rows(entry))


def _utility(entry: Entry) -> Content:
    return Content(rows=_rows(entry))


def _attack(entry: Entry) -> Content:
    return Content(candidates=_candidates(entry))


def _nothing(entry: Entry) -> Content:
    """Nobody reads files of other kinds."""
    return Content()


def _file(entry: Entry, name: str) -> Any:
    if name not in entry.files:
        raise DamagedError(f"expected a file {name}, got {sorted(entry.files)}")
    return entry.file(name)


def _json(entry: Entry, name: str) -> Any:
    try:
        return json.loads(_file(entry, name).read_bytes())
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedError):
            raise
        raise _damaged(name, error) from error


def _arrays(entry: Entry, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    name = "pictures.npz"
    path = _file(entry, name)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in names}
    except (ValueError, OSError, EOFError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(name, error) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError) as error:
        raise _damaged(name, error) from error


def _images(images: NDArray[Any]) -> None:
    if images.dtype != np.uint8 or images.ndim != _IMAGE_AXES or images.shape[3:] != (3,):
        raise DamagedError(
            f"pictures.npz: expected uint8 of shape [N, H, W, 3], got {images.dtype} of {images.shape}"
        )


def _tensor_names(entry: Entry, name: str) -> set[str]:
    path = _file(entry, name)
    try:
        with safe_open(path, framework="numpy") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise _damaged(name, error) from error


def _typed(value: object, kinds: Mapping[str, tuple[type, ...]], where: str) -> None:
    if not isinstance(value, Mapping):
        raise DamagedError(f"{where}: expected an object, got {type(value).__name__}")
    for key, types in kinds.items():
        if not isinstance(value.get(key, ...), types):
            raise DamagedError(f"{where}: expected {key!r} as it was written, got another value")


def _damaged(name: str, error: Exception) -> DamagedError:
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
    "bool": pa.types.is_boolean,
}
_READ: dict[str, Callable[[Entry], Content]] = {
    "edit": _edit,
    "reference": _reference,
    "attack": _attack,
    "trial": _trial,
    "utility": _utility,
}
