"""Two workers with the miniature, one apart from the store, one of them killed: the bytes of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.cli.main import main
from tests.bench.run.ray_for_real import TIMES

pytest.importorskip("ray")

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("ray_for_real.py")


def ran(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True, text=True, timeout=550, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def told(place: Path) -> dict[str, Any]:
    done = ran(SCRIPT, place)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_the_bytes_are_those_of_one_process(told: dict[str, Any]) -> None:
    assert told["here"]["failed"] == told["ray"]["failed"] == []
    assert (told["killed"], told["apart"]) == (1, True)
    assert told["ray"]["computed"] == told["here"]["computed"] == told["cells"]
    assert told["ray"]["bytes"] == told["here"]["bytes"]
    assert told["ray"]["table"] == told["here"]["table"]


@pytest.mark.slow
def test_the_command_with_two_workers_reports_the_table_of_one_process(
    told: dict[str, Any], place: Path
) -> None:
    suite = place / "tiny.yaml"
    command = ("-m", "bench", "run", suite, "--store", place / "two", "--out", place / "by-two")
    two = ran(*command, "--workers", "2", "--device", "cpu", "--json")
    assert two.returncode == 0, two.stderr[-3000:]
    said = json.loads(two.stdout)
    assert (said["computed"], said["cached"], said["failed"]) == (told["cells"], 0, [])
    words = ["report", suite, "--store", place / "here", "--out", place / "by-one"]
    with pytest.raises(SystemExit) as one:
        main(list(map(str, words)))
    assert not one.value.code
    tables = [
        pd.read_csv(place / by / "table.csv").drop(columns=TIMES) for by in ("by-one", "by-two")
    ]
    assert tables[0].to_csv() == tables[1].to_csv()
    trials = [(place / by / "trials.parquet").read_bytes() for by in ("by-one", "by-two")]
    assert trials[0] == trials[1]


@pytest.mark.slow
def test_ray_listens_to_this_machine_alone_and_asks_for_a_token(told: dict[str, Any]) -> None:
    assert told["addresses"]
    assert all(address in ("127.0.0.1", "::1") for address in told["addresses"]), told["addresses"]
    assert told["token"] == "token"


@pytest.mark.slow
def test_ray_starts_nothing_that_serves_nobody(told: dict[str, Any]) -> None:
    """Neither what scales clusters nor what reads what workers print nor what answers browsers."""
    assert told["idle"] == []


@pytest.mark.slow
def test_nothing_is_left_behind(told: dict[str, Any]) -> None:
    assert told["left"] == []
    assert told["processes"] == []
