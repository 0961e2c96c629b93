"""Writes the entries of a run: one per method, of a whole and final run of a shipped protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.digest import write_atomic
from bench.core.errors import UsageError, did_you_mean, shown
from bench.leaderboard.check import read_entry
from bench.leaderboard.entry import Entry
from bench.leaderboard.final import check_final
from bench.leaderboard.make import entry_of
from bench.leaderboard.names import entry_path
from bench.leaderboard.protocol import edits_of, plan_of, protocol_of, shipped_as, spelled
from bench.leaderboard.published_run import PublishedRun, read_run
from bench.run.plan import Plan

__all__ = ["Added", "add_run"]


@dataclass(frozen=True, slots=True)
class Added:
    """An entry that was written, or found to be there.

    Attributes:
        path: Where.
        entry: The entry.
        new: It was not there before with the same content.
    """

    path: Path
    entry: Entry
    new: bool


def add_run(
    folder: Path, board: Path, *, methods: Sequence[str] = (), suite: str | Path | None = None
) -> list[Added]:
    """Writes an entry for each method of a run.

    Controls that have an entry on the protocol keep it: they are the same for everybody. Any other method
    that has one from another run is refused.

    Args:
        folder: Of the report, beside the folder of the leaderboard.
        board: The folder of the leaderboard.
        methods: Their lines in the tables; none: all.
        suite: The file of the suite, if it is not shipped.

    Raises:
        UsageError: in one line; nothing is written then.
    """
    _check_place(folder, board)
    run = read_run(folder)
    check_final(run)
    plan = _plan(run, suite)
    protocol = protocol_of(plan)
    if run.provenance["suite_digest"] != plan.suite_digest:
        raise UsageError(
            f"{folder}: expected a run of {plan.suite.name} as it is here, got one of another version; run it again"
        )
    source = shipped_as(protocol)
    name = f"{source}@{protocol.version}"
    ways, edits = _ways(plan), edits_of(plan)
    made: list[Added] = []
    for label in _wanted(methods, ways):
        path = entry_path(board, name, label)
        there = read_entry(path) if path.is_file() else None
        if there is not None and there.method.name != label:
            raise UsageError(
                f"{path}: expected a name of its own, and {shown(there.method.name)} has this file; "
                f"call {shown(label)} something else by `as:`"
            )
        if there is not None and there.run.folder != folder.name:
            if edits[label].method.control:
                made.append(Added(path, there, new=False))
                continue
            raise UsageError(
                f"{path}: expected no entry of {shown(label)} yet, got one of {there.run.folder}; remove it first"
            )
        entry = entry_of(run, label, suite=source, spelled=ways[label], board=board)
        made.append(Added(path, entry, new=entry != there))
    for one in made:
        if one.new:
            one.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(one.path, one.entry.text().encode())
    return made


def _check_place(folder: Path, board: Path) -> None:
    """Refuses a run that a check would not find again: only what lies beside the leaderboard is published with it."""
    if folder.resolve().parent != board.resolve().parent or folder.is_symlink():
        raise UsageError(
            f"expected a run beside {board}, got {folder}; write its report to {board.parent}/<name> with --out"
        )


def _plan(run: PublishedRun, suite: str | Path | None) -> Plan:
    try:
        plan = plan_of(run.suite if suite is None else suite)
    except UsageError as error:
        if suite is not None:
            raise
        raise UsageError(f"{run.folder}: {error}; name the suite's file with --suite") from error
    if plan.suite.name != run.suite:
        raise UsageError(
            f"{run.folder}: expected a run of {plan.suite.name}, got one of {run.suite}; give its suite"
        )
    return plan


def _ways(plan: Plan) -> Mapping[str, Any]:
    """The methods as the suite spells them, by their lines in the tables."""
    by_label = spelled(plan.suite)
    return {line: by_label[edit.method.label] for line, edit in edits_of(plan).items()}


def _wanted(methods: Sequence[str], ways: Mapping[str, Any]) -> Sequence[str]:
    for name in methods:
        if name not in ways:
            hint = did_you_mean(name, ways)
            raise UsageError(f"--method: expected one of the run's, got {shown(name)}{hint}")
    return methods or list(ways)
