"""Whether a path that a user gave is a file that may be opened.

Opening a FIFO waits for a writer for ever, and a device such as ``/dev/zero`` has no end. Whatever
reads a user's file asks here first: :func:`regular` where a missing file is the user's error too,
:func:`only_regular` where the caller has an answer of its own to a file that is not there.
"""

from __future__ import annotations

import stat
from pathlib import Path

from bench.errors import UsageError, shown

__all__ = ["expanded", "is_folder", "only_regular", "regular"]

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def expanded(path: str | Path) -> Path:
    """The path with ``~`` and ``~name`` replaced by the home folder.

    Raises:
        UsageError: there is no such user, or no path has such a name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"expected a path, got {shown(str(path))}: {error}") from error


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder; not where the name cannot be one."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def only_regular(path: Path) -> Path:
    """The path, unless it is there and no regular file. Links are followed.

    Raises:
        UsageError: it is a folder, a FIFO, a device or a socket.
        OSError: it is not there, or may not be looked at.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        where = f"{path}, a link to {kind}" if path.is_symlink() else f"{kind} at {path}"
        raise UsageError(f"expected a regular file, got {where}; give the file itself")
    return path


def regular(path: str | Path) -> Path:
    """The path with ``~`` expanded, if it is a regular file or a link to one.

    Raises:
        UsageError: it is not there, a link to nothing, anything but a file, or not to be looked at.
    """
    where = expanded(path)
    try:
        return only_regular(where)
    except FileNotFoundError as error:
        if where.is_symlink():
            raise UsageError(
                f"expected a file, got {path}, a link to nothing; restore what it points to"
            ) from error
        raise UsageError(f"expected a file, got {path}, which is not there") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte; UsageErrors are ValueErrors
        if isinstance(error, UsageError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"expected a file, got {path}, which cannot be read ({reason})") from error
