"""Entries of a store as bytes: how results travel where two machines share no file system.

A parcel is a line of JSON and the files one after the other. Only JSON is parsed. Whoever opens a parcel
writes an entry of his own from it, with a manifest of his own, so what was cut short is found.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Final

from bench.core.digest import StoreError, canonical_json, parse_json
from bench.run.store import Entry, Failure, Store

__all__ = ["adopt", "pack", "pack_failure"]

_RECORD: Final = "record.json"
_ADDED: Final = frozenset({"kind", "digest", "schema_version", "error"})
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def pack(entry: Entry) -> bytes:
    """Returns the parcel of an entry."""
    names = sorted(entry.files.keys() - {_RECORD})
    files = [entry.file(name).read_bytes() for name in names]
    head = {
        "kind": entry.kind,
        "digest": entry.digest,
        "record": _told(entry.record),
        "files": [
            [name, len(data), hashlib.sha256(data).hexdigest()]
            for name, data in zip(names, files, strict=True)
        ],
    }
    return b"".join([canonical_json(head).encode(), b"\n", *files])


def pack_failure(failure: Failure) -> bytes:
    """Returns the parcel of a failed attempt."""
    head = {
        "kind": failure.kind,
        "digest": failure.digest,
        "record": _told(failure.record),
        "error": failure.record["error"],
        "traceback": failure.traceback,
    }
    return canonical_json(head).encode() + b"\n"


def adopt(store: Store, parcel: bytes) -> None:
    """Publishes what a parcel holds; an entry that is there already stays as it is.

    Raises:
        StoreError: it is no parcel, or was cut short.
    """
    line, _, body = parcel.partition(b"\n")
    try:
        head: Any = parse_json(line)
        kind, digest, record = head["kind"], head["digest"], head["record"]
        if "error" in head:
            store.keep_failure(kind, digest, record, head["error"], head["traceback"])
            return
        files = _opened(head["files"], body)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"expected a parcel of an entry, got {parcel[:80]!r}: {error}") from error
    store.publish(kind, digest, record, lambda folder: _write(folder, files))


def _told(record: Any) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in _ADDED}


def _opened(listed: Any, body: bytes) -> dict[str, bytes]:
    files, at = {}, 0
    for name, size, sha256 in listed:
        data = body[at : at + size]
        at += size
        if not _NAME.fullmatch(name) or hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"the file {name!r} is not what it was")
        files[name] = data
    if at != len(body):
        raise ValueError(f"expected {at} bytes, got {len(body)}")
    return files


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
