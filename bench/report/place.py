"""The folder of a report: whose it is, and how a new report takes the place of an old one.

A report is written into a folder of its own inside (`.report-*`) and moved in file by file once it is
whole. What a kill leaves there is no file of the report, and the next report removes it. Files that
no report writes stay as they are.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.core.digest import sync
from bench.core.errors import UsageError, shown
from bench.tables.text import markdown_text

__all__ = ["PAGE", "RUN_PAGE", "check_place", "listed", "replacing", "title"]

PAGE, RUN_PAGE = "README.md", "index.html"
_FILES = frozenset(
    {
        PAGE,
        RUN_PAGE,
        "agreement.csv",
        "distances.parquet",
        "measures.csv",
        "candidates.jsonl",
        "candidates.safetensors",
        "cells.csv",
        "edits.parquet",
        "flags.csv",
    }
    | {"provenance.json", "scatter.pdf", "scatter.png", "table.csv", "table.md", "table.tex"}
    | {"transfer.csv", "transfer.pdf", "transfer.png", "trials.parquet", "utility.parquet"}
    | {"budget.csv", "budget.pdf", "budget.png", "stages.csv"}
    | {"sweep.csv", "sweep.png", "worst.csv", "worst.md"}
)
_GRID = re.compile(r"(grid|disagreement)-.*\.png")
_STAGING = re.compile(r"\.report-[0-9a-f]{16}")
_TORN = re.compile(r"\..*\.[0-9]+-[0-9a-f]{16}\.tmp")
"""The name of a file that a killed report of an earlier version has left."""
_HEAD = 64 * 1024
_WITHOUT_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF})
"""Where a filesystem has no locks, two reports at once are not kept apart."""


def title(suite: str) -> str:
    """The first line of a report's page, by which its folder is known."""
    return f"# Results of the suite {markdown_text(suite)}"


def check_place(folder: Path, suite: str) -> None:
    """Refuses a folder that cannot take a suite's report, or holds something else.

    Raises:
        UsageError: it is not empty and no report of the suite.
        OSError: it is no folder, or may not be written.
    """
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))
    if not folder.is_dir():
        return
    names = sorted(p.name for p in folder.iterdir() if not _is_ours_to_remove(p.name))
    if not names or _first_line(folder / PAGE) == title(suite):
        return
    some = ", ".join(shown(name) for name in names[:3]) + ", ..." * (len(names) > 3)
    raise UsageError(
        f"{folder}: expected an empty folder or a report of the suite {shown(suite)}, got {some}; "
        "choose another folder with --out, or empty this one"
    )


def listed(folder: Path) -> list[str]:
    """The sorted names of what is in the folder, without what a killed report has left."""
    return sorted(p.name for p in folder.iterdir() if not _is_ours_to_remove(p.name))


@contextmanager
def replacing(folder: Path, suite: str) -> Iterator[Path]:
    """Gives an empty folder to write a report into; at the end its files take their places.

    Files of an earlier report that the new one lacks are removed; one that another process writes
    here at the same time is waited for. Where an error ends it, the old report stays.

    Args:
        folder: of the report; made if need be.
        suite: whose it is.

    Raises:
        UsageError: as :func:`check_place`.
    """
    check_place(folder, suite)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        check_place(folder, suite)
        for path in folder.iterdir():
            if _STAGING.fullmatch(path.name):
                shutil.rmtree(path)
            elif _TORN.fullmatch(path.name):
                path.unlink()
        staging = folder / f".report-{secrets.token_hex(8)}"
        try:
            staging.mkdir()
            yield staging
            _move_in(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _move_in(staging: Path, folder: Path) -> None:
    sync(staging)
    # The page comes first: by it the folder is known again if a kill comes between two files.
    new = sorted((path.name for path in staging.iterdir()), key=lambda name: (name != PAGE, name))
    for name in new:
        (staging / name).replace(folder / name)
    for path in folder.iterdir():
        if path.name not in new and (path.name in _FILES or _GRID.fullmatch(path.name)):
            path.unlink()
    staging.rmdir()
    sync(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder's own lock, for which no file is made; on NFS it keeps one host's processes apart."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def _is_ours_to_remove(name: str) -> bool:
    return bool(_STAGING.fullmatch(name) or _TORN.fullmatch(name))


def _first_line(page: Path) -> str:
    try:
        with page.open("rb") as file:
            return file.read(_HEAD).decode("utf-8", "replace").partition("\n")[0]
    except (FileNotFoundError, IsADirectoryError):
        return ""
