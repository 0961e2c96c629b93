"""Whether a published run is whole, final and says what its rows say: everything that needs no plan."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pandas as pd

from bench.core.digest import canonical_json
from bench.core.errors import UsageError, shown
from bench.leaderboard.published_run import PublishedRun
from bench.report.place import PAGE, title
from bench.tables.flags import flag
from bench.tables.spreadsheet import as_csv
from bench.tables.tables import summarise
from bench.tables.worst import worst_per_goal

__all__ = ["Derived", "check_final", "check_tables", "derived"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA: Final = re.compile(r"[0-9a-f]{64}")
_LOST: Final = {
    "missing": "cells are missing",
    "failed": "cells failed",
    "blocked": "cells were blocked",
    "errors": "rows are errors",
}
_CUT: Final = ("--only", "--limit")


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """The tables of a run.

    Attributes:
        table: Lines of :data:`~bench.tables.schema.TABLE`.
        worst: Lines of :data:`~bench.tables.schema.WORST`.
        flags: Lines of :data:`~bench.tables.schema.FLAGS`.
    """

    table: pd.DataFrame
    worst: pd.DataFrame
    flags: pd.DataFrame


def check_final(run: PublishedRun) -> None:
    """Refuses a draft, a part of a suite, and a run that lost cells.

    Raises:
        UsageError: in one line.
    """
    about, where = run.provenance, run.folder / "provenance.json"
    for name, what in _LOST.items():
        lost = about.get(name)
        if lost != []:
            count = len(lost) if isinstance(lost, list) else "an unknown number of"
            raise UsageError(
                f"{where}: expected a whole run, and {count} {what}; run it to its end"
            )
    if about.get("dirty") is not False:
        raise UsageError(
            f"{where}: expected a run of committed code, got a draft; commit, and run the suite again"
        )
    if not _COMMIT.fullmatch(str(about.get("commit"))):
        got = shown(about.get("commit"))
        raise UsageError(
            f"{where}: expected a commit of 40 hex digits, got {got}; run it from a clone"
        )
    _check_parts(about, where)
    for name in ("base", "suite_digest"):
        if not _SHA.fullmatch(str(about.get(name))):
            got = shown(about.get(name))
            raise UsageError(f"{where}: expected {name} of 64 hex digits, got {got}; run it again")
    if cut := _cut(about):
        raise UsageError(f"{where}: expected a whole suite, got one cut by {cut}; run it without")
    head = (run.folder / PAGE).read_text(encoding="utf-8", errors="replace")[:4096]
    if head.partition("\n")[0] != title(run.suite):
        raise UsageError(
            f"{run.folder / PAGE}: expected the page of {run.suite}, got another; make the report again"
        )
    for word in ("DRAFT", "PARTIAL"):
        if f"> **{word}**" in head:
            raise UsageError(f"{run.folder / PAGE}: expected a final report, got a {word} one")


def _check_parts(about: Mapping[str, Any], where: Path) -> None:
    """Refuses lines that were taken from an earlier report without the commit that computed them."""
    parts = about.get("parts", [])
    said = isinstance(parts, list) and all(
        isinstance(part, Mapping)
        and _COMMIT.fullmatch(str(part.get("commit")))
        and isinstance(lines := part.get("lines"), list)
        and all(_is_line(line) for line in lines)
        for part in parts
    )
    if not said:
        raise UsageError(
            f"{where}: expected parts, each with a commit and its lines, got {shown(parts)}; make the report again"
        )


def _is_line(line: Any) -> bool:
    """Whether it is a method, a concept and a repeat."""
    if not isinstance(line, list) or len(line) != 3:
        return False
    method, concept, repeat = line
    return isinstance(method, str) and isinstance(concept, str) and type(repeat) is int


def check_tables(run: PublishedRun) -> None:
    """Refuses a run whose tables are not what its rows give.

    Raises:
        UsageError: in one line.
    """
    for name, data in _texts(_Same(run)).items():
        said = run.tables[f"{name}.csv"]
        if said != data:
            raise UsageError(
                f"{run.folder / name}.csv:{_first_apart(said, data)}: expected what the rows give, got another text; "
                "make the report again"
            )


def derived(run: PublishedRun) -> Derived:
    """The tables that the rows of a run give; of the same files they are derived once.

    Raises:
        UsageError: the rows contradict each other.
    """
    return _derived(_Same(run))


class _Same:
    """A run as a key: two of the same files are one."""

    def __init__(self, run: PublishedRun) -> None:
        self.run = run
        self._key = (str(run.folder), canonical_json(dict(run.files)))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._key == other._key


@lru_cache(maxsize=4)
def _derived(same: _Same) -> Derived:
    run = same.run
    try:
        table = summarise(run.trials, run.utility, edits=run.edits, suite=run.suite)
        own = run.trials[run.trials["source"] == run.trials["method"]]
        return Derived(table, worst_per_goal(run.trials, table), flag(table, own, run.edits))
    except ValueError as error:
        raise UsageError(f"{run.folder}: {error}") from error


@lru_cache(maxsize=4)
def _texts(same: _Same) -> Mapping[str, bytes]:
    """The tables as they are published."""
    found = _derived(same)
    frames = {"table": found.table, "worst": found.worst, "flags": found.flags}
    return {name: as_csv(frame) for name, frame in frames.items()}


def _cut(about: Mapping[str, Any]) -> str:
    try:
        words = shlex.split(str(about.get("command", "")))
    except ValueError:
        return "a command that cannot be read"
    return next((word for word in words if word.partition("=")[0] in _CUT), "")


def _first_apart(ours: bytes, theirs: bytes) -> int:
    pairs = zip(ours.splitlines(), theirs.splitlines(), strict=False)
    apart = (number for number, (a, b) in enumerate(pairs, start=1) if a != b)
    return next(apart, min(ours.count(b"\n"), theirs.count(b"\n")) + 1)
