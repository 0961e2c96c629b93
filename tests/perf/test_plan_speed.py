"""How long a plan of ten thousand cells takes, whatever it is large in, and the command that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.config.suite import load_suite
from bench.model.pipeline.inspect import inspect_base
from bench.run.plan import make_plan

pytestmark = pytest.mark.perf

ROOT = Path(__file__).parents[2]
CELLS = 10_000
FEW = ["none", "destroyed", *({"uce": {"lam": lam}} for lam in (0.25, 0.5, 0.75))]


def methods(count: int) -> list[Any]:
    return ["none", "destroyed", *({"uce": {"lam": i / 1000}} for i in range(1, count - 1))]


def concept(number: int) -> dict[str, Any]:
    sets = ("name", "synonyms", "indirect")
    return {
        "text": f"thing {number}",
        "neighbours": [f"thing {number + 1}"],
        "prompts": {s: [f"a {s} photo of thing {number}, the {i}th" for i in range(24)] for s in sets},
        "utility": [
            {"text": f"thing {number} in place {i}", "concept": f"thing {number}"} for i in range(10)
        ],
    }  # fmt: skip


LARGE: dict[str, dict[str, Any]] = {
    "methods": {"concepts": ["star", "zorbo"], "methods": methods(300)},
    "concepts": {
        "concepts": [concept(i) for i in range(125)],
        "methods": FEW,
        "judges": ["tests.perf.blind_judges:BlindJudge"],
        "surrogate": "tests.perf.blind_judges:BlindSurrogate",
        "metrics": ["clip_score", "drift"],
    },
    "repeats": {"concepts": ["all"], "methods": FEW, "repeats": 6},
    "transfers": {"concepts": ["star", "zorbo"], "methods": methods(47), "transfer": ["prompts"]},
}


@pytest.mark.parametrize("many", LARGE)
def test_a_plan_of_ten_thousand_cells(benchmark: BenchmarkFixture, many: str) -> None:
    suite, base = load_suite("mini-quick").with_(**LARGE[many]), inspect_base("miniature")
    plan = benchmark.pedantic(
        make_plan, (suite, base.digest), {"folder": base.folder}, rounds=3, warmup_rounds=1
    )
    assert CELLS <= len(plan.cells) < 1.1 * CELLS


def test_the_command_that_shows_ten_thousand_cells(
    benchmark: BenchmarkFixture, tmp_path: Path
) -> None:
    fields = load_suite("mini-quick").with_(**LARGE["methods"]).file.model_dump()
    path = tmp_path / "large.yaml"
    path.write_text(json.dumps({**fields, "name": "large"}))
    command = [sys.executable, "-m", "bench", "plan", str(path), "--store", str(tmp_path / "store")]

    def called() -> int:
        return subprocess.run(command, cwd=ROOT, capture_output=True).returncode

    assert benchmark.pedantic(called, rounds=3, warmup_rounds=1) == 0
