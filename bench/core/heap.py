"""How this process keeps memory that it has freed; only glibc can be told."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Mapping

__all__ = ["give_back", "keep", "trim"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # as in malloc.h


def keep() -> None:
    """For networks: faulting memory in again at every layer costs a quarter of the time."""
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20})


def give_back() -> None:
    """For tables and pictures: a large one goes back to the system at once, and leaves no hole.

    What is smaller stays for the next file of a cell: to give it back each time costs a tenth of reading.
    Arrow, which is not loaded yet, asks glibc too, as its own pool gives nothing back.
    """
    _set({_MMAP_THRESHOLD: 2**20, _TRIM_THRESHOLD: 8 * 2**20})
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def trim() -> None:
    """Gives back what was freed between things that stay: after rows became a frame, after figures were drawn."""
    gc.collect()  # a figure and what is on it hold each other
    with contextlib.suppress(OSError, AttributeError):  # other systems have their own ways
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _set(options: Mapping[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in options.items():
            libc.mallopt(option, value)
