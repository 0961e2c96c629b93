"""Whether a path that a user gave is a file that may be opened.

Opening a FIFO waits for a writer for ever, and a device such as ``/dev/zero`` has no end. Whatever
reads a user's file asks here first: :func:`bounded` reads a small one whole, :func:`regular` and
:func:`all_regular` are for what a library opens. :func:`only_regular` is for callers that have an
answer of their own to a file that is not there.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from bench.core.errors import UsageError, shown

__all__ = ["all_regular", "bounded", "expanded", "is_folder", "only_regular", "regular"]

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
        where = Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"expected a path, got {shown(str(path))}: no user has that home folder"
        ) from error
    try:
        where.lstat()
    except ValueError as error:  # a null byte
        raise UsageError(f"expected a path, got {shown(str(path))}: {error}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(
                f"expected a path, got {shown(str(path))}, which is too long; choose a shorter one"
            ) from error
    return where


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
    except OSError as error:
        raise _unreadable(path, error.strerror) from error


def all_regular(folder: Path) -> Path:
    """The folder, if whatever a library may open in it, at its top, is a regular file.

    Raises:
        UsageError: a file in it is none, or a link to nothing; or the folder cannot be read.
    """
    try:
        for path in sorted(folder.iterdir()):
            if not path.is_dir():
                regular(path)
    except OSError as error:
        raise UsageError(f"expected a folder, got {folder}: {error.strerror}") from error
    return folder


def bounded(path: str | Path, most: int, *, todo: str = "give a smaller file") -> bytes:
    """The content of a regular file of at most ``most`` bytes.

    Args:
        path: The file.
        most: Bytes; more are not read.
        todo: What to do about a larger file.

    Raises:
        UsageError: it is larger, or cannot be read.
    """
    try:
        with regular(path).open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    if len(data) > most:
        size = f"{most} bytes" if most % 2**20 else f"{most // 2**20} MiB"
        raise UsageError(f"{path}: expected at most {size}, got more; {todo}")
    return data


def _unreadable(path: str | Path, reason: object) -> UsageError:
    return UsageError(f"expected a file, got {path}, which cannot be read ({reason})")
