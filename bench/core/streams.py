"""Standard output and errors that nobody has to listen to: a run does not end because its reader did.

Where a pipe is closed (`tvc-bench run | head -1`) the command goes on quietly and ends as it would have.
Where it cannot be written for another reason (a full disk), it goes on as well, and says so at the end.
What the terminal's encoding lacks is written as its number.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

__all__ = ["Lost", "patient"]


_LAST = 2  # the number of standard error


class Lost(Exception):
    """Standard output could not be written.

    Attributes:
        error: what the system said, first.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output: {error.strerror or error}")
        self.error = error


class _Patient:
    """A stream that passes everything on until that fails, and then forgets what it is told."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failed: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self.failed is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.failed is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Sends what is still in the stream's buffer nowhere, so that the end of Python finds no fault."""
        self.failed = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
        finally:
            os.close(nowhere)


@contextmanager
def patient() -> Iterator[None]:
    """Puts patient streams in the place of the process's for a while.

    Raises:
        Lost: at the end, if standard output failed for another reason than that its pipe was closed.
    """
    before = sys.stdout, sys.stderr
    _fill_the_gaps()
    out, err = (_Patient(stream or _nowhere()) for stream in before)
    for stream in (out, err):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
    if out.failed is not None and not isinstance(out.failed, BrokenPipeError):
        raise Lost(out.failed)


def _fill_the_gaps() -> None:
    """Opens what is closed of the three standard streams, or the next file would become one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")
