"""Locks on files that the kernel gives back when their holder dies, however it dies.

`flock` knows nothing of process numbers, so it holds between containers that share a filesystem. On
NFS (version 4, or 3 with its lock daemon) it holds between hosts too. The server of version 4 frees the
locks of a dead client when its lease ends. That of version 3 waits until the client is up again, which
:mod:`bench.run.leases` does not. A mount with `nolock` or `local_lock=all` sees one host only.
Where a filesystem has no locks at all, a lock is granted to everybody and says that it is not `sure`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

__all__ = ["Lock", "try_lock"]

_TAKEN = frozenset({errno.EAGAIN, errno.EACCES})
_WITHOUT = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Lock:
    """A lock that this process holds; as a context it is given back at the end.

    Attributes:
        path: its file, which goes with it.
        sure: whether nobody else can hold it; false where the filesystem has no locks.
    """

    path: Path
    sure: bool
    _descriptor: int

    def release(self) -> None:
        """Removes the file and gives the lock back; a second call does nothing."""
        if self._descriptor < 0:
            return
        try:
            # While it is held: nobody waits for what is gone. Another's, who took it over, stays.
            if _is_there(self.path, self._descriptor):
                self.path.unlink(missing_ok=True)
        finally:
            self.leave()

    def touch(self) -> None:
        """Sets the file's time to now, as its filesystem has it: a sign of life."""
        if self._descriptor >= 0:
            os.utime(self._descriptor)

    def leave(self) -> None:
        """Gives the lock back and leaves its file, for who looks after what it was for."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def try_lock(path: Path) -> Lock | None:
    """Returns the lock of a file, which is made if need be, or None if somebody else holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        sure = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                os.close(descriptor)
                return None
            if error.errno not in _WITHOUT:
                os.close(descriptor)
                raise
            _log.warning(
                "%s: this filesystem has no locks (%s): two runs on it compute everything twice",
                path.parent,
                error.strerror,
            )
            sure = False
        if _is_there(path, descriptor):
            return Lock(path, sure, descriptor)
        os.close(descriptor)  # its last holder has removed it between the two calls


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        there, mine = path.lstat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
