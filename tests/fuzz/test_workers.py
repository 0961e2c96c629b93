"""The process that plays cases finds what is not allowed, and goes on with the next case."""

from __future__ import annotations

import os
import signal
from mmap import mmap
from pathlib import Path

from bench.core.errors import UsageError
from tests.fuzz.workers import Limits, line_fault, played

LIMITS = Limits(seconds=2, memory=200 * 2**20)


def play(seed: int, folder: Path) -> None:
    (folder / "file").write_text("x")
    match seed:
        case 1:
            raise UsageError("expected a star, got a fish")
        case 2:
            raise KeyError("star")
        case 3:
            while True:
                pass
        case 4:
            mmap(-1, 400 * 2**20)  # a worker of pytest may have as much in its heap, unused
        case 5:
            os.kill(os.getpid(), signal.SIGKILL)
        case 6:
            os._exit(0)


def test_each_case_has_its_outcome(tmp_path: Path) -> None:
    cases = list(played(play, range(8), tmp_path, LIMITS))
    assert [case.seed for case in cases] == list(range(8))
    assert [case.told for case in cases] == [None, "expected a star, got a fish", *[None] * 6]
    found = [
        "",
        "",
        "KeyError: 'star'",
        "2 seconds of the processor",
        "Cannot allocate memory",
        "SIGKILL",
        "code 0",
        "",
    ]
    for case, said in zip(cases, found, strict=True):
        assert said in case.fault if said else not case.fault, case
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3", "4", "5", "6"]


def test_a_clear_line_is_short_and_can_be_printed() -> None:
    assert line_fault("expected a star") == ""
    assert all(line_fault(line) for line in ("", "x" * 2001, "a\nb", "\x1b[2J", "Traceback (most"))
