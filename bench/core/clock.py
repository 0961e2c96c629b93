"""How long the process spent inside models, to tell the harness's own cost apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["model_seconds", "model_time"]

_depth: ContextVar[int] = ContextVar("model_time_depth", default=0)
_total = [0.0]


@contextmanager
def model_time() -> Iterator[None]:
    """Counts the time inside; nested uses count once."""
    outer = _depth.get() > 0
    token = _depth.set(_depth.get() + 1)
    began = time.perf_counter()
    try:
        yield
    finally:
        _depth.reset(token)
        if not outer:
            _total[0] += time.perf_counter() - began


def model_seconds() -> float:
    """Seconds spent under :func:`model_time` since the process began."""
    return _total[0]
