"""Two workers against one, what handing out ten thousand cells costs, and a plan of a hundred thousand.

    make perf ARGS="tests/perf/test_scale.py"        # on idle cores

`test_two_workers_against_one` takes two runs of some ten and five minutes, and both cores to itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.perf.test_plan_speed import FEW

pytestmark = pytest.mark.perf
pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]
TIMES = ["edit_seconds", "edit_memory_mb"]
KEPT = (
    "star",
    "none",
    "destroyed",
    "uce*",
    "negative_prompt*",
    "prompts",
    "random_tokens*",
    "seed_search*",
)
CUT = [word for name in KEPT for word in ("--only", name)]
"""Of mini-full: about ten minutes of one core, Ray's start aside."""
CELL_S = 1.0
"""A short cell of a real model: mini-full's take 15 s of a slow core on average, its scores aside."""


# ru_maxrss would count what the parent held when it forked; this is of the program's own memory.
_WITH_ITS_PEAK = """
import atexit, re, runpy, sys
from pathlib import Path
peak = lambda: re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
atexit.register(lambda: print(peak(), file=sys.stderr))
runpy.run_module("bench", run_name="__main__", alter_sys=True)
"""


def ran(at: Path, workers: int) -> dict[str, Any]:
    """Runs the cut of mini-full; returns what it says."""
    words = [sys.executable, "-m", "bench", "run", "mini-full", *CUT, "--json", "--device", "cpu"]
    words += ["--store", str(at / "store"), "--out", str(at / "report"), "--workers", str(workers)]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def table(at: Path) -> str:
    text: str = pd.read_csv(at / "report" / "table.csv").drop(columns=TIMES).to_csv()
    return text


@pytest.mark.timeout(3600)
def test_two_workers_against_one(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    one = ran(tmp_path / "one", 1)
    two = benchmark.pedantic(ran, (tmp_path / "two", 2), rounds=1)
    benchmark.extra_info["seconds"] = [one["seconds"], two["seconds"]]
    assert table(tmp_path / "one") == table(tmp_path / "two")
    trials = [(tmp_path / n / "report" / "trials.parquet").read_bytes() for n in ("one", "two")]
    assert trials[0] == trials[1]
    assert one["seconds"] >= 1.8 * two["seconds"], (one["seconds"], two["seconds"])


def test_handing_out_ten_thousand_cells(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    def handed_out() -> dict[str, Any]:
        words = [sys.executable, "-m", "tests.perf.handed_out", str(tmp_path), "6", "2"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    told = benchmark.pedantic(handed_out, rounds=1)
    benchmark.extra_info |= told
    assert told["cells"] >= 10_000
    assert told["driver_ms_per_cell"] <= 0.01 * 1e3 * CELL_S
    first, last = told["megabytes"]
    assert last - first < 10, "the driver holds nothing of what is done"


def test_a_plan_of_a_hundred_thousand_cells(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    from bench.config.suite import load_suite

    fields = load_suite("mini-quick").file.model_dump()
    path.write_text(
        json.dumps({**fields, "name": "large", "concepts": "all", "methods": FEW, "repeats": 59})
    )
    words = [
        sys.executable,
        "-c",
        _WITH_ITS_PEAK,
        "plan",
        str(path),
        "--store",
        str(tmp_path / "store"),
    ]

    def planned() -> tuple[str, dict[str, float]]:
        """Returns the last line, and the use of this one child: other tests' children count for nothing."""
        began = time.monotonic()
        with (tmp_path / "said").open("wb") as said, (tmp_path / "errors").open("wb") as errors:
            process = subprocess.Popen(words, cwd=ROOT, stdout=said, stderr=errors)
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, (tmp_path / "errors").read_text()[-3000:]
        return (tmp_path / "said").read_text().splitlines()[-1], {
            "wall_s": time.monotonic() - began,
            "processor_s": used.ru_utime + used.ru_stime,
            "peak_mb": int((tmp_path / "errors").read_text().split()[-1])
            / 2**10,  # Linux counts in kB
        }

    last, used = benchmark.pedantic(planned, rounds=1)
    benchmark.extra_info |= used
    assert int(last.split()[0]) >= 100_000
    assert used["processor_s"] <= 30
    assert used["wall_s"] <= 30, "on idle cores"
    assert used["peak_mb"] <= 2**10
