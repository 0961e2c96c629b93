"""Whether entries go together: a protocol has its controls, and one place in the board is one method's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.config.refusals import CONTROLS
from bench.leaderboard.entry import Entry
from bench.tables.text import slug

__all__ = ["check_together", "missing_controls"]


def check_together(entries: Sequence[tuple[Path, Entry]]) -> list[str]:
    """The faults of entries that are sound one by one, a line each.

    Args:
        entries: Sound ones, with their files; the controls of their folder count where they are not among them.
    """
    faults = []
    for folder in sorted({path.parent for path, _ in entries}):
        there = {path.stem for path in folder.glob("*.json")}
        if missing := missing_controls(there):
            faults.append(
                f"{folder}: expected an entry of the control {missing[0]}, got none; "
                "run `leaderboard add` of a whole run"
            )
    return faults


def missing_controls(names: set[str]) -> list[str]:
    """The control methods that are not among the names of files."""
    return [name for name in CONTROLS["methods"] if slug(name) not in names]
