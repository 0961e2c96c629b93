"""Faults of the place where a command runs: full disks, missing rights, names too long.

Such an error is one line that names the path and says what to do, and exit code 2.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

__all__ = ["fault", "line"]

_FULL = "free some space or choose another place; the same command goes on where this one ended"
_RIGHTS = "choose another place, or ask the owner of this one for access"
_FILE = "a file stands where a folder is expected; choose another place"
_TO_DO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) or choose another place",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "choose a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: _FILE,
    errno.EEXIST: _FILE,
    errno.EISDIR: "a folder stands where a file is expected; choose another place",
    errno.ELOOP: "its links go round in a circle; mend them or choose another place",
    errno.ENOENT: "make it, or choose another place",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs that hold many files open",
    errno.EIO: "the disk or the network failed; look after it, then run the same command to go on",
    errno.ESTALE: "the network filesystem lost it; mount it again, then run the same command to go on",
    errno.ENOMEM: "free some memory",
    errno.EILSEQ: "choose a name that this filesystem takes",
    errno.EINVAL: "choose a name that this filesystem takes",
}
_EVERYWHERE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
    | {errno.EMFILE, errno.ENFILE}
)
"""Faults that the next cell would meet as well. Of rights that lack it is not sure: they may be those of one file."""
_RUST = re.compile(r"\(os error ([0-9]+)\)|\bcode: ([0-9]+)\b")


def fault(error: BaseException) -> OSError | None:
    """Returns the error of the system that says the place is unfit; None for any other error.

    A library may have put it into words of its own; what it says is then read.
    """
    number = _number(error)
    if number not in _EVERYWHERE:
        return None
    return error if isinstance(error, OSError) else OSError(number, os.strerror(number))


def line(error: OSError) -> str:
    """One line: the path, what the system said of it, and what to do."""
    number = _number(error)
    if number == errno.ENOENT and error.filename is None and not _has_a_folder():
        return "the current folder is gone: change to one that exists"
    names = [os.fspath(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)]
    paths = [_text(name) for name in dict.fromkeys(names)]
    said = error.strerror or str(error) or type(error).__name__
    told = ": ".join([*paths[:1], said])
    hint = _TO_DO.get(number)
    if number == errno.EEXIST and names and Path(os.fsdecode(names[0])).is_symlink():
        hint = "a link that leads nowhere stands there; mend it or choose another place"
    whole = f"{told}; {hint}" if hint else told
    return "".join(c if c.isprintable() else " " for c in whole)


def _number(error: BaseException) -> int:
    """The system's number of an error, also of one that a library has put into words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = _RUST.search(str(error)[:1000])  # safetensors
    return int(match[1] or match[2]) if match else 0


def _has_a_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _text(name: str | bytes) -> str:
    text = os.fsdecode(name)
    shown = text.encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= 200 else f"{shown[:90]}...{shown[-90:]}"
