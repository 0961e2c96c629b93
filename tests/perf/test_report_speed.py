"""How long the table of 100,000 rows takes, and the report of a store of 2,000 cells with its memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.run.store import Store
from bench.tables.schema import EDITS, TRIALS, UTILITY, conform
from bench.tables.tables import summarise
from tests.perf.full_store import fill, large_plan

ROWS = 100_000


def trials() -> pd.DataFrame:
    """Ten methods, five concepts, ten attacks, fifty goals and four seeds, in any order."""
    rng = np.random.default_rng(0)
    at = np.unravel_index(rng.permutation(ROWS), (10, 5, 10, 50, 4))
    method, concept, attack, goal, seed = (pd.Series(a).astype("int64") for a in at)
    frame = pd.DataFrame(
        {
            "method": "method" + method.astype(str),
            "source": "method" + method.astype(str),
            "concept": "concept" + concept.astype(str),
            "family": "object",
            "repeat": 0,
            "attack": "attack" + attack.astype(str),
            "access": "prompt",
            "control": attack < 2,
            "prompt_set": "name",
            "candidate": goal,
            "draw": seed,
            "goal": "name/" + goal.astype(str),
            "prompt": "a photo of number " + goal.astype(str),
            "variant": "",
            "image_seed": seed,
            "judge": "mini",
            "label": "concept",
            "counts": True,
            "score": rng.random(ROWS),
            "threshold": 0.5,
            "status": "ok",
            "reason": "",
            "gradients": False,
            **dict.fromkeys(
                ["changed", "gradient_steps", "gradient_zero", "gradient_bad", "late_gain"]
            ),
            "own_score": rng.random(ROWS),
            "own_threshold": 0.5,
            "queries": 1,
            "image_sha256": pd.Series(range(ROWS)).astype(str),
        }
    )
    edit = frame["method"] + frame["concept"]
    digests = {"edit_digest": edit, "attack_digest": edit + frame["attack"]}
    return conform(frame.assign(**digests, trial_digest=digests["attack_digest"]), TRIALS)


@pytest.mark.perf
def test_summarise_a_hundred_thousand_rows(benchmark: BenchmarkFixture) -> None:
    rows = trials()
    empty = UTILITY.empty(), EDITS.empty()
    table = benchmark.pedantic(
        summarise, (rows, empty[0]), {"edits": empty[1], "suite": "speed"}, rounds=3
    )
    assert len(table) == 10 * 10 * (5 + 1)


REPORT = """
import sys
from bench.cli.main import app
app(sys.argv[1:], result_action="return_value")
print(open("/proc/self/status").read(), file=sys.stderr)
"""


@pytest.mark.perf
def test_report_of_2000_cells(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """The whole command, imports and plan too; its peak of memory is in the extra information."""
    fill(Store(tmp_path / "store"), large_plan(tmp_path, 1))
    words = ["report", str(tmp_path / "large.yaml"), "--store", str(tmp_path / "store")]

    def report() -> str:
        return subprocess.run(
            [sys.executable, "-c", REPORT, *words, "--out", str(tmp_path / "report")],
            check=True, capture_output=True, text=True,
        ).stderr  # fmt: skip

    said = benchmark.pedantic(report, rounds=1)
    peak = re.search(r"VmHWM:\s+(\d+) kB", said)
    assert peak is not None
    benchmark.extra_info["peak MiB"] = int(peak[1]) // 1024
