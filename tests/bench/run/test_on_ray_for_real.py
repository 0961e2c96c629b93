"""Two workers with the miniature, one apart from the store, one of them killed: the bytes of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("ray_for_real.py")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("real"))],
        capture_output=True, text=True, timeout=550, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
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
def test_ray_listens_to_this_machine_alone_and_asks_for_a_token(told: dict[str, Any]) -> None:
    assert told["addresses"]
    assert all(address in ("127.0.0.1", "::1") for address in told["addresses"]), told["addresses"]
    assert told["token"] == "token"


@pytest.mark.slow
def test_nothing_is_left_behind(told: dict[str, Any]) -> None:
    assert told["left"] == []
    assert told["processes"] == []
