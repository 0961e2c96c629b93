"""How long a command takes from its start, Python's own included."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.perf

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        *(("ls", what) for what in ("methods", "attacks", "judges", "metrics")),
        *(("ls", what) for what in ("suites", "concepts")),
        ("plan", "mini-quick"),
    ],
    ids=" ".join,
)
def test_start(benchmark: BenchmarkFixture, tmp_path: Path, words: Sequence[str]) -> None:
    place = ("--store", str(tmp_path)) if words[0] == "plan" else ()
    command = [sys.executable, "-m", "bench", *words, *place]

    def called() -> int:
        return subprocess.run(command, cwd=ROOT, capture_output=True).returncode

    assert benchmark.pedantic(called, rounds=5, warmup_rounds=1) == 0
