"""Folders of one process in the temporary place: gone at its end, or by the next process where it was killed."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.run.locks import try_lock

__all__ = ["own_folder"]

_LOCK: Final = ".lock"


@contextmanager
def own_folder(prefix: str, longest: int | None = None) -> Iterator[Path]:
    """Gives an empty folder that nobody else may read, and removes it at the end.

    Before that it removes those of the same prefix whose process is dead.

    Args:
        prefix: Of its name.
        longest: The path has at most so many characters, as far as ``/tmp`` allows it: paths of
            sockets are short.
    """
    place = Path(tempfile.gettempdir())
    name = f"{prefix}{secrets.token_hex(4)}"
    if longest is not None and len(str(place / name)) > longest:
        place = Path("/tmp")  # noqa: S108 (a folder of a drawn name and mode 700 is made in it)
    for lock_path in place.glob(f"{prefix}*{_LOCK}"):
        _remove_dead(lock_path)
    folder = place / name
    lock = try_lock(folder.with_name(name + _LOCK))
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            lock.release()


def _remove_dead(path: Path) -> None:
    try:
        if path.lstat().st_uid != os.getuid():
            return
        lock = try_lock(path)
    except OSError:
        return
    if lock is None or not lock.sure:
        return
    shutil.rmtree(path.with_name(path.name.removesuffix(_LOCK)), ignore_errors=True)
    lock.release()
