"""Where the tests keep temporary files: in memory, if there is room."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["roomy_memory"]

_MEMORY: Final = Path("/dev/shm")
_FILES_GIB, _FREE_GIB = 6, 10
"""A whole run keeps 2 GiB of files at once, and two workers take 3 GiB beside them."""


def roomy_memory() -> Path | None:
    """The folder of files in memory; ``None`` where it is small, or where stamps do not tell two writes apart.

    A store waits for the disk eight times per entry, 30 ms together. No test looks at what that is for:
    a computer that loses its power.
    """
    try:
        status = os.statvfs(_MEMORY)
        free = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.M)
        room = status.f_bavail * status.f_frsize / 2**30
        if free is None or room < _FILES_GIB or int(free[1]) / 2**20 < _FREE_GIB:
            return None
        return _MEMORY if _stamps_differ() else None
    except OSError:
        return None


def _stamps_differ() -> bool:
    """Whether a file that is written twice in a row has two stamps; before Linux 6.13 some ticks are 4 ms long."""
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        path, stamps = Path(folder) / "written", []
        for _ in range(20):
            path.write_bytes(b"same size")
            stamps.append(path.stat().st_mtime_ns)
    return len(set(stamps)) == len(stamps)
