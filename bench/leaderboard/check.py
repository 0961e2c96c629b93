"""Checks entries against the published rows: an entry is what the rows give, to the last digit, or it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from bench.core.errors import UsageError, from_pydantic, shown
from bench.core.files import bounded
from bench.core.json_files import object_in
from bench.leaderboard.entry import Entry
from bench.leaderboard.make import entry_of
from bench.leaderboard.names import ENTRIES, entry_path
from bench.leaderboard.protocol import plan_with, protocol_of
from bench.leaderboard.published_run import PublishedRun, files_of, read_run

__all__ = ["board_of", "check_entry", "read_entry", "run_of"]

_MOST: Final = 2**25
_Path = tuple[str | int, ...]


def read_entry(path: Path) -> Entry:
    """The entry in a file.

    Raises:
        UsageError: it is none, or lies where another belongs.
    """
    data = bounded(path, _MOST)
    object_in(data, path)  # each key once, no NaN
    try:
        entry = Entry.model_validate_json(data)
    except ValidationError as error:
        raise UsageError(f"{path}: {from_pydantic(error, Entry)}") from error
    at = entry_path(board_of(path), entry.protocol.name, entry.method.name)
    if at.resolve() != path.resolve():
        raise UsageError(
            f"{path}: expected the entry of {shown(entry.method.name)} on {entry.protocol.name} at {at}; move it"
        )
    if entry.text().encode() != data:
        raise UsageError(
            f"{path}: expected the text that `leaderboard add` writes, got another; add it again"
        )
    return entry


def board_of(path: Path) -> Path:
    """The folder of the leaderboard that holds an entry.

    Raises:
        UsageError: it lies in none.
    """
    if len(path.absolute().parts) < 4 or path.absolute().parents[1].name != ENTRIES:
        raise UsageError(
            f"expected an entry, <board>/{ENTRIES}/<protocol>/<method>.json, got {path}; give its place there"
        )
    return path.absolute().parents[2]


def run_of(path: Path, entry: Entry) -> PublishedRun:
    """The published run of an entry, beside the folder of the leaderboard."""
    return read_run(board_of(path).parent / entry.run.folder)


def check_entry(path: Path) -> Entry:
    """Recomputes an entry from its rows, and returns it if it is the same.

    Raises:
        UsageError: in one line: what was expected, what came, and where.
    """
    entry = read_entry(path)
    _check_protocol(path, entry)
    _check_files(path, entry)  # before anything in them is read
    run = run_of(path, entry)
    try:
        again = entry_of(
            run, entry.method.name, suite=entry.protocol.suite, spelled=entry.method.entry,
            board=board_of(path),
        )  # fmt: skip
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    for at, said, found in _apart(entry.as_json(), again.as_json(), ()):
        raise UsageError(
            f"{path}: {'.'.join(map(str, at))}: expected {shown(found)} from the rows, got {shown(said)}"
        )
    return entry


def _check_protocol(path: Path, entry: Entry) -> None:
    """Refuses another version of a protocol, before anything is computed."""
    try:
        now = protocol_of(plan_with(entry.protocol.suite, entry.method.entry))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    if now.base != entry.protocol.base:
        raise UsageError(
            f"{path}: expected the base {now.base[:12]} of {now.suite}, got {entry.protocol.base[:12]}"
        )
    if now != entry.protocol:
        raise UsageError(
            f"{path}: expected the protocol {now.name} of this version, got {entry.protocol.name}; run it again"
        )


def _check_files(path: Path, entry: Entry) -> None:
    folder = board_of(path).parent / entry.run.folder
    files = files_of(folder)
    for name in sorted({*entry.run.files, *files}):
        said, found = entry.run.files.get(name), files.get(name)
        if said != found:
            raise UsageError(
                f"{path}: run.files: {folder / name}: expected sha256 {(said or 'none')[:12]}, "
                f"got {(found or 'no such file')[:12]}"
            )


def _apart(said: Any, found: Any, at: _Path) -> Iterator[tuple[_Path, Any, Any]]:
    """The places where two JSON values differ, with both."""
    if isinstance(said, dict) and isinstance(found, dict):
        for key in sorted({*said, *found}):
            yield from _apart(said.get(key), found.get(key), (*at, key))
    elif isinstance(said, list) and isinstance(found, list) and len(said) == len(found):
        for place, pair in enumerate(zip(said, found, strict=True)):
            yield from _apart(*pair, (*at, place))
    elif said != found or isinstance(said, bool) != isinstance(found, bool):
        yield at, said, found
