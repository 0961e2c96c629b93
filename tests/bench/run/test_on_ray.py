"""A run on a real local Ray ends with the results of an unbroken one, whoever dies meanwhile.

What a network would compute is drawn here (`tests.simulated`), so that a worker begins in a second;
`test_on_ray_for_real.py` has the miniature. The driver is a process of its own: tests open no socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UsageError
from bench.run import on_ray
from bench.run.loading import Runtime
from bench.run.seats import refuse_too_many, seats
from bench.run.store import Store
from bench.run.watching import Watcher
from tests.bench.run.ray_scenes import tiny
from tests.tiny import CELLS

pytest.importorskip("ray")

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("ray_scenes.py")
Told = Mapping[str, Any]
PATIENCE_S = 500.0
MEMORY = "memory_runs_out_once_and_another_process_holds_a_claim"
DISKS = "every_disk_is_full_and_then_one"
SHARED = "gpus_are_shared_and_nobody_sees_the_store"
JOINED = "another_process_joins"
NAMES = ["workers_are_killed", "a_cell_raises", MEMORY, DISKS, SHARED, JOINED]
"""A worker takes two seconds of the processor to begin. Others are played by `make fuzz ARGS=ray`."""


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """The outcome of each scene; they share one Ray. In the last nothing goes wrong, and all end with its bytes."""
    folder = tmp_path_factory.mktemp("ray")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *NAMES],
        capture_output=True, text=True, env=environment(), timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]  # and nothing else is said
    assert [told["scene"] for told in found] == NAMES
    assert [told["error"] for told in found if "error" in told] == []
    return {told["scene"]: told for told in found}


def whole(told: Told, unbroken: Told) -> None:
    """Asserts that a run has ended as the unbroken one."""
    assert (told["there"], told["damaged"], told["left"]) == (CELLS, 0, [])
    assert (told["failed"], told["blocked"]) == ([], [])
    assert told["bytes"] == unbroken["bytes"]


@pytest.mark.slow
def test_every_cell_is_computed_once(played: dict[str, Told]) -> None:
    told = played[JOINED]
    whole(told, told)
    assert (told["computed"], told["cached"], told["twice"]) == (CELLS, 0, 0)


@pytest.mark.slow
def test_killed_workers_cost_a_cell_each_at_most(played: dict[str, Told]) -> None:
    told = played["workers_are_killed"]
    whole(told, played[JOINED])
    assert told["killed"] == 2
    assert told["twice"] <= told["killed"]


@pytest.mark.slow
def test_a_cell_that_raises_is_recorded_and_the_others_go_on(played: dict[str, Told]) -> None:
    """The record comes from a worker that does not see the store."""
    told = played["a_cell_raises"]
    first = told["first"]
    assert first["failed"] == [{"cell": told["bad"], "error": "ValueError: as ordered"}]
    assert first["computed"] == CELLS - 3
    assert len(first["blocked"]) == 2, "its trial, and the score of that"
    assert len(told["traces"]) == 1
    assert "in _go_wrong" in told["traces"][0]
    whole(told, played[JOINED])
    assert told["computed"] == 3, "the next run does what failed, and what was blocked"


@pytest.mark.slow
def test_a_worker_whose_memory_ran_out_is_replaced_and_a_claim_waited_for(
    played: dict[str, Told],
) -> None:
    told = played[MEMORY]
    whole(told, played[JOINED])
    assert len(told["lost"]) == 1
    assert "MemoryError: as ordered" in told["lost"][0]
    assert told["twice"] == 1


@pytest.mark.slow
def test_full_disks_everywhere_end_the_run_and_one_costs_its_worker(
    played: dict[str, Told],
) -> None:
    """The run raises the system's error, of which a command makes exit code 2; the same command goes on."""
    told = played[DISKS]
    assert re.match(
        r"27 every worker's place is unfit; the last, .*File too large", told["refused"]
    )
    assert len(told["every_lost"]) == 2
    (lost,) = told["one_lost"]
    assert "File too large" in lost
    whole(told, played[JOINED])


@pytest.mark.slow
def test_two_workers_on_each_gpu_and_live_progress_of_all_four(played: dict[str, Told]) -> None:
    """Cells are held until the driver has heard of all four how far they are."""
    told = played[SHARED]
    assert sorted(told["workers"]) == [["cuda", "0"], ["cuda", "0"], ["cuda", "1"], ["cuda", "1"]]
    assert told["opened"]
    assert told["reports"] > 0
    whole(told, played[JOINED])


@pytest.mark.slow
def test_workers_that_never_find_a_place_are_refused(played: dict[str, Told]) -> None:
    assert played[SHARED]["refused"] == (
        "--workers: expected at most 4, 2 on each of 2 GPUs, got 5; put more on each by --per-gpu, "
        "or leave the GPUs aside by --device cpu"
    )


@pytest.mark.slow
def test_a_cluster_that_runs_is_joined_told_of_what_it_lacks_and_left_alive(
    played: dict[str, Told],
) -> None:
    told = played[JOINED]
    assert told["computed"] == CELLS
    assert told["unplaced"] == [[1, 3]]
    assert (told["alive"], told["same"], told["errors"]) == ("alive", True, "")


@pytest.mark.slow
def test_results_come_back_from_machines_that_do_not_see_the_store(played: dict[str, Told]) -> None:
    told = played[SHARED]
    whole(told, played[JOINED])
    assert told["computed"] == CELLS
    assert told["own"] == [], "their own stores are gone"
    assert told["images"] == 0, "every score has seen them"


# --- the driver and the head


def begun(at: Path, **orders: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(at), "alone"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(ORDERS=json.dumps(orders)),
        start_new_session=True,
    )  # fmt: skip


def some_cells(at: Path, process: subprocess.Popen[str], number: int) -> None:
    """Waits until so many cells are in the store."""
    end = time.monotonic() + PATIENCE_S
    while len(list((at / "store").glob("*/??/*/manifest.json"))) < number:
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < end, "nothing is computed"
        time.sleep(0.02)


def children(pid: int) -> Iterator[int]:
    """All processes below one, the nearest first."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from children(int(child))


def named(pids: list[int], name: str) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if name in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    return found


@pytest.mark.slow
def test_the_head_dies_and_then_the_driver_and_the_same_command_ends_whole(
    played: dict[str, Told], tmp_path: Path
) -> None:
    first = begun(tmp_path, slow_after=5)
    some_cells(tmp_path, first, 5)
    (head,) = named(list(children(first.pid)), "gcs_server")
    os.kill(head, signal.SIGKILL)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 2, errors[-3000:]
    (line,) = [x for x in errors.splitlines() if x.strip()]
    assert line.startswith("error: the head of Ray at 127.0.0.1:")
    assert "the same command goes on" in line

    second = begun(tmp_path, slow_after=12)
    there = len(list((tmp_path / "store").glob("*/??/*/manifest.json")))
    some_cells(tmp_path, second, there + 2)
    pids = list(children(second.pid))
    assert named(pids, "gcs_server")
    second.kill()
    second.communicate(timeout=60)

    third = begun(tmp_path)
    said, errors = third.communicate(timeout=PATIENCE_S)
    assert third.returncode == 0, errors[-3000:]
    told: Told = json.loads(said.splitlines()[-1])
    whole(told, played[JOINED])
    assert told["computed"] < CELLS
    assert told["twice"] <= 4, "each of two workers was at a cell, twice"
    end = time.monotonic() + 60
    while left := [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


# --- without a Ray


def test_without_ray_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"not installed: pip install 'tvc-bench\[ray\]'"):
        on_ray.OnRay(workers=2)


@pytest.mark.enable_socket
def test_where_nobody_answers_there_is_one_clear_line(tmp_path: Path) -> None:
    plan = tiny(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        executor = on_ray.OnRay(address=address)
        with pytest.raises(UsageError) as refused:
            executor.run(plan, Store(tmp_path / "store"), Watcher())
    assert str(refused.value) == f"--ray {address!r}: nobody answers there"


def test_places_are_counted_as_ray_rounds_them() -> None:
    """Ray counts in ten thousandths: of a GPU that two of three workers have a little more than a third is left."""
    assert seats({"CPU": 2.0}, per_gpu=1, gpus=False) == 2
    assert seats({"CPU": 2.0, "GPU": 2.0}, per_gpu=3, gpus=True) == 6
    assert seats({"GPU": 0.3334}, per_gpu=3, gpus=True) == 1
    assert seats({"GPU": 0.0002}, per_gpu=3, gpus=True) == 0
    assert seats({"CPU": 2.0}, per_gpu=1, gpus=True) == 0
    with pytest.raises(UsageError, match=r"expected at most 1, one on each core .* got 2; ask"):
        refuse_too_many(2, {"CPU": 1.0}, per_gpu=1, gpus=False)


def test_a_single_device_is_not_shared_out() -> None:
    with pytest.raises(UsageError, match="expected auto, cpu or cuda"):
        on_ray.OnRay(workers=2, runtime=Runtime("cuda:1"))
