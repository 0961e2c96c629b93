"""The names of protocols and entries as paths: nothing that a card says leads out of its folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.core.errors import UsageError, shown
from bench.tables.text import slug

__all__ = ["BOARD", "ENTRIES", "entry_files", "entry_path", "file_name"]

BOARD: Final = Path("results") / "leaderboard"
ENTRIES: Final = "entries"
_PROTOCOL: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}@[0-9a-f]{12}")
_FILE: Final = re.compile(r"[a-z0-9_]{1,120}")


def file_name(method: str) -> str:
    """The name of an entry's file without its ending: ``[a-z0-9_]+``.

    Raises:
        UsageError: the method's name is too long for a file's.
    """
    name = slug(method)
    if not _FILE.fullmatch(name):
        raise UsageError(
            f"expected a method's name of at most 120 characters, got {shown(method)}; give a short one by `as:`"
        )
    return name


def entry_path(board: Path, protocol: str, method: str) -> Path:
    """Where an entry lies: ``<board>/entries/<suite>@<version>/<method>.json``.

    Raises:
        UsageError: a name can be no path.
    """
    if not _PROTOCOL.fullmatch(protocol):
        raise UsageError(
            f"expected a protocol such as mini-quick@0123456789ab, got {shown(protocol)}"
        )
    return board / ENTRIES / protocol / f"{file_name(method)}.json"


def entry_files(board: Path) -> Iterator[Path]:
    """Every file under the entries, in order.

    Raises:
        UsageError: something there is no entry: a link, a folder in a protocol, another ending.
    """
    root = board / ENTRIES
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.is_symlink() or not folder.is_dir() or not _PROTOCOL.fullmatch(folder.name):
            raise UsageError(
                f"{folder}: expected a folder named <suite>@<12 hex digits>; remove it"
            )
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or not path.is_file() or path.suffix != ".json":
                raise UsageError(f"{path}: expected an entry, <method>.json; remove it")
            yield path
