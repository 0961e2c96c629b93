"""How this process keeps memory that it has freed; only glibc can be told."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

__all__ = ["give_back", "keep"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # as in malloc.h


def keep() -> None:
    """For networks: faulting memory in again at every layer costs a quarter of the time."""
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20})


def give_back() -> None:
    """For tables and pictures: a large one goes back to the system at once, and leaves no hole."""
    _set({_MMAP_THRESHOLD: 2**20})


def _set(options: Mapping[int, int]) -> None:
    try:
        libc = ctypes.CDLL("libc.so.6")
        for option, value in options.items():
            libc.mallopt(option, value)
    except (OSError, AttributeError):
        return  # other systems have their own ways
