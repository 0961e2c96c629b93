"""Whether two places of a store and its report hold the same: every file, but for what was measured.

What may differ is named in :data:`MEASURED`, with the reason. All else is compared to the byte: a file of a kind
that is not known here as well.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pandas as pd

__all__ = ["MEASURED", "compare", "left_behind", "said_of"]

_CLOCK, _MEMORY = "a clock's", "the operating system's"
_LAST = "of the last run alone, which finds more in the store the later the run before was killed"
MEASURED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "seconds": _CLOCK,
        "model_seconds": _CLOCK,
        "edit_seconds": _CLOCK,
        "cell_seconds": _CLOCK,
        "reused_seconds": _CLOCK,
        "overhead": _CLOCK,
        "share_outside_models": _CLOCK,
        "peak_memory_mb": _MEMORY,
        "edit_memory_mb": _MEMORY,
        "computed": _LAST,
        "cached": _LAST,
        "self_check": f"{_LAST}; one that samples nothing looks at no base",
    }
)
"""The keys of JSON and the columns of tables that two runs need not share; by name, whose numbers they are."""

_PLACES: Final = ("store/tmp", "store/claims", "store/quarantine", "store/errors")
"""They may be there or not, and are empty."""
_COST = re.compile(r"(?m)^(\| [^|]+ \| )[\d,.]+ \| [\d,]+((?: \| [\d,.]+){4} \|)$")
_PEAK = re.compile(r"\b\d+ MiB\b")


def compare(whole: Path, broken: Path) -> None:
    """Raises AssertionError unless both hold the same files, and nothing is left in the second."""
    left = left_behind(broken)
    assert left == [], left
    ours, theirs = said_of(whole), said_of(broken)
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    apart = [name for name, data in ours.items() if theirs[name] != data]
    assert apart == [], "\n".join([*apart, _first_apart(ours[apart[0]], theirs[apart[0]])])


def left_behind(place: Path) -> list[str]:
    """The paths, from the place, of files that lie where nothing lies after a run."""
    return [n for n in _names(place) if n.startswith(_PLACES) and n not in _PLACES]


def said_of(place: Path) -> dict[str, bytes]:
    """Every file and folder by its path from the place, with its bytes less what was measured."""
    return {
        name: _said(place / name) if (place / name).is_file() else b"a folder"
        for name in _names(place)
        if name not in _PLACES
    }


def _names(place: Path) -> list[str]:
    """Digests are the same in both, and so are the names of entries."""
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))


def _said(path: Path) -> bytes:
    data = path.read_bytes()
    match path.name:
        case "record.json" | "provenance.json":
            return json.dumps(_less(json.loads(data)), indent=1).encode()
        case "manifest.json":  # it has the sha256 of the record, times and all
            about = json.loads(data)
            del about["files"]["record.json"]
            return json.dumps(about, indent=1).encode()
        case "README.md":
            return _PEAK.sub("... MiB", _COST.sub(r"\1... | ...\2", data.decode())).encode()
        case "index.html":
            return _page_less(data.decode(), path.with_name("worst.csv")).encode()
    if path.suffix == ".csv":
        return _rows_less(pd.read_csv(io.BytesIO(data), dtype=str), data)
    if path.suffix == ".parquet":
        return _rows_less(pd.read_parquet(io.BytesIO(data)), data)
    return data


def _less(value: Any) -> Any:
    """JSON without the keys of :data:`MEASURED`, at any depth."""
    if isinstance(value, dict):
        return {key: _less(below) for key, below in value.items() if key not in MEASURED}
    return [_less(below) for below in value] if isinstance(value, list) else value


def _rows_less(rows: pd.DataFrame, data: bytes) -> bytes:
    """The rows without measured columns; the file as it is where it has none."""
    kept = [name for name in rows if name not in MEASURED]
    return data if len(kept) == len(rows.columns) else rows[kept].to_csv().encode()


def _page_less(page: str, worst: Path) -> str:
    """The page without its column of the edits' seconds, known by the numbers of the table that it shows."""
    for seconds in pd.read_csv(worst, dtype=str)["edit_seconds"].dropna().unique():
        page = re.sub(rf'data-order="{re.escape(seconds)}">[\d,.]+<', 'data-order="...">...<', page)
    return page


def _first_apart(ours: bytes, theirs: bytes) -> str:
    """The first line that differs, for people."""
    both = [data.decode(errors="replace").splitlines() for data in (ours, theirs)]
    pairs = (f"{a[:300]!r}, and {b[:300]!r}" for a, b in zip(*both, strict=False) if a != b)
    return next(pairs, f"{len(both[0])} lines, and {len(both[1])}")
