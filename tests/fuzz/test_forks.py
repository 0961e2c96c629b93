"""A forked child that fails says how and why; a process with threads is not forked for a drill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TELL = """
import os, signal, sys, threading
from pathlib import Path
from tests.forks import alone, begin, ended, require_success
log = Path(sys.argv[1])
def ends_with_2():
    print("said before", flush=True)
    return 2
def raises():
    raise ValueError("the cause")
def is_killed():
    os.kill(os.getpid(), signal.SIGSEGV)
works = {work.__name__: work for work in (ends_with_2, raises, is_killed, lambda: 0)}
if sys.argv[2] == "threads":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    alone()
alone()
require_success(ended(begin(works[sys.argv[2]], log)), log)
"""


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("ends_with_2", ["exit code 2", "said before"]),
        ("raises", ["exit code 99", "ValueError: the cause"]),
        ("is_killed", ["SIGSEGV"]),
        ("threads", ["expected one thread before a fork"]),
        ("<lambda>", []),
    ],
)
def test_a_child_that_fails_says_how_and_why(case: str, says: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TELL, str(tmp_path / "log"), case],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode == 0) is (not says)
    assert all(word in done.stderr for word in says), done.stderr
