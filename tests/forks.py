"""Children that are forks of a test's process; what they say is kept, and told where they fail.

A fork copies one thread alone. What rests on threads that are gone may hang in the child, or crash it.
Two allocators of pyarrow are such. One keeps a thread of its own; one has crashed in a new thread
(https://github.com/apache/arrow/issues/50471). `FORKABLE` does without both.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

__all__ = ["FORKABLE", "alone", "begin", "ended", "require_success"]

FORKABLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OMP_NUM_THREADS": "1",
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
)
"""The environment of a process that will be forked: what it imports begins no thread."""

_SHOWN: Final = 4000


def alone() -> None:
    """Refuses a process that has more than one thread; call it before a fork.

    Raises:
        AssertionError: a library has begun one; it names them.
    """
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert len(names) == 1, f"expected one thread before a fork, got {sorted(names)}"


def begin(work: Callable[[], int], log: Path) -> int:
    """Starts a child that ends with what ``work`` returns; returns its number.

    Args:
        work: What the child does. A child in which it raises ends with code 99.
        log: Takes the place of the child's standard output and standard error.
    """
    sys.stdout.flush()  # or the child would say it again
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        for stream in (1, 2):
            os.dup2(written, stream)
        code = work()
    except BaseException:  # a child must never come back
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(child: int) -> int:
    """Waits for a child; returns its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def require_success(code: int, log: Path) -> None:
    """Refuses an exit code other than 0.

    Raises:
        AssertionError: it tells how the child ended, and the end of what it said.
    """
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    assert code == 0, f"the child ended with {how}; it said:\n{log.read_text()[-_SHOWN:]}"
