"""Printing for modules that are commands of their own, such as ``python -m bench.tables.compare``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench.core.errors import UsageError

__all__ = ["print_or_refuse"]


def print_or_refuse(make: Callable[[], str]) -> int:
    """Prints what ``make`` returns, or in one line why it cannot; returns the exit code, 0 or 2."""
    try:
        text = make()
    except (OSError, UsageError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(text)
    return 0
