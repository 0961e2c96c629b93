"""Claims: locks that lapse when their holder shows no sign of life, even where the filesystem keeps its lock.

A lock of `flock` goes with its process. When a whole machine dies, it is the filesystem that has to
notice. NFS 4, CephFS and Lustre do after a minute or some; NFS 3 does not before that machine is up
again. So a holder touches its file every minute, and who finds a file untouched for ten takes the
claim over. Times are the filesystem's own, so no two clocks are compared. A machine that was only
away goes on with its cell: it is computed twice then, and published once.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from bench.run.locks import Lock, try_lock

__all__ = ["BEAT_S", "LEASE_S", "Lease", "try_lease"]

LEASE_S: Final = 600.0
"""So long is a claim good without a sign of life."""
BEAT_S: Final = 60.0
_LOOK_TWICE_S: Final = 0.1


class Lease:
    """A lock that this process holds, and shows that it does.

    Args:
        lock: Of the file.
        beat_s: Seconds between two signs of life.
    """

    def __init__(self, lock: Lock, beat_s: float = BEAT_S) -> None:
        self._lock = lock
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, args=(beat_s,), name="claim", daemon=True)
        _touch(lock)
        self._beats.start()

    @property
    def path(self) -> Path:
        """Its file, which goes with it."""
        return self._lock.path

    @property
    def sure(self) -> bool:
        """Whether nobody else can hold it; false where the filesystem has no locks."""
        return self._lock.sure

    def release(self) -> None:
        """Removes the file and gives the lock back; a second call does nothing."""
        self._over.set()
        if self._beats.is_alive():
            self._beats.join()
        self._lock.release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _beat(self, every_s: float) -> None:
        while not self._over.wait(every_s):
            _touch(self._lock)


def try_lease(path: Path, *, lease_s: float = LEASE_S, beat_s: float = BEAT_S) -> Lease | None:
    """Returns the claim on a file, or None if somebody else holds it and has shown life of late.

    Args:
        path: Of the file, which is made if need be.
        lease_s: So long is a claim good without a sign of life.
        beat_s: Seconds between two signs of life of this process.
    """
    lock = try_lock(path)
    if lock is None and _lapsed(path, lease_s):
        lock = _taken_over(path, lease_s)
    return None if lock is None else Lease(lock, beat_s)


def _touch(lock: Lock) -> None:
    with contextlib.suppress(OSError):  # who cannot show life may lose a claim: no harm but time
        lock.touch()


def _lapsed(path: Path, lease_s: float) -> bool:
    """Whether a file was last touched so long ago, by the filesystem's own clock, and still is not."""
    try:
        touched = path.stat().st_mtime
        if time.time() - touched <= lease_s:  # spares the look at the other clock, nearly always
            return False
        if _now(path.parent) - touched <= lease_s:
            return False
        time.sleep(_LOOK_TWICE_S)  # its next holder may just be about to touch it
        return path.stat().st_mtime == touched
    except OSError:
        return False


def _now(folder: Path) -> float:
    """The time of the filesystem that a folder is on."""
    probe = folder / f"now-{secrets.token_hex(8)}.lock"
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _taken_over(path: Path, lease_s: float) -> Lock | None:
    """Takes a lapsed claim's file away, so that the next is on a file of its own; one process at a time."""
    guard = try_lock(path.parent / "take-over.lock")
    if guard is None:
        return None
    with guard:
        if not _lapsed(path, lease_s):  # another has just taken it over
            return None
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return try_lock(path)
