"""Several processes at one suite in one store: they share the cells, and the death of one costs one cell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.config.suite import load_suite
from bench.model.text_to_image import TextToImage, load_model
from bench.run import runner
from bench.run.plan import Cell, Plan, make_plan
from bench.run.runner import run_plan
from bench.run.stages.compute import compute
from bench.run.stages.workspace import Workspace
from bench.run.store import Store
from tests.forks import FORKABLE, begin, ended

ROOT = Path(__file__).parents[3]
FIELDS: dict[str, Any] = {
    "name": "tiny",
    "concepts": ["star"],
    "sampler": {"steps": 2, "guidance_scale": 3.0},
    "methods": ["none", "destroyed"],
    "attacks": ["prompts", {"random_tokens": {"tries": 1}}, {"seed_search": {"tries": 1}}],
    "goals": 1,
    "utility": {"neighbours": 1, "others": 1},
    "keep_images": 1,
}
CELLS = 1 + 2 * (2 + 3 + 3 * 3)
SCENES = {"both-live": (0, 0), "one-dies": (2, 0)}
"""By name, of each process the number of the cell at which it dies; 0: it lives."""


def at_work(root: Path, plan: Plan, base: TextToImage, *, fatal: int) -> int:
    """Runs the plan in a child, returns its exit code; it dies at its cell of the number ``fatal``, claim in hand."""
    mine = f"{os.getpid()}"

    def logged(work: Workspace, cell: Cell) -> Any:
        with (root / f"log-{mine}").open("a") as file:
            file.write(cell.digest + "\n")
        mine_now = (root / f"log-{mine}").read_text().split()
        while len(list(root.glob("log-*"))) < 2:  # nobody does it all before the other is there
            time.sleep(0.005)
        if len(mine_now) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(work, cell)

    vars(runner)["compute"] = logged
    outcome = run_plan(plan, Store(root / "store"), base)
    (root / f"outcome-{mine}").write_text(json.dumps(outcome.as_json()))
    return 0


def scenes(place: Path) -> None:
    """Runs in a process of its own, which loads the base once for all of them."""
    torch.set_num_threads(1)  # a child must not wait for threads that it does not have
    base = load_model()
    plan = make_plan(load_suite("mini-quick").with_(**FIELDS), base.backbone.digest)
    warm = run_plan(plan, Store(place / "warm"), base)
    assert warm.computed == CELLS
    for name, fatal in SCENES.items():
        root = place / name
        root.mkdir()
        found = children(root, fatal, plan, base)
        (place / f"{name}.json").write_text(json.dumps(found))


def children(root: Path, fatal: tuple[int, ...], plan: Plan, base: TextToImage) -> dict[str, Any]:
    """Starts a child for each number and waits for all."""
    numbers: list[int] = []
    for number in fatal:
        work = partial(at_work, root, plan, base, fatal=number)
        numbers.append(begin(work, root.parent / f"{root.name}-{number}-{len(numbers)}.log"))
    statuses = [ended(child) for child in numbers]
    logs = {str(n): (root / f"log-{n}").read_text().split() for n in numbers}
    store = Store(root / "store")
    there = sum(store.find(c.kind, c.digest) is not None for c in plan.cells)
    removed = [path.name for path in store.clean_tmp()]
    return {"statuses": statuses, "logs": logs, "there": there, "removed": removed,
            "damaged": len(store.verify())}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every scene has been played."""
    place = tmp_path_factory.mktemp("sharing")
    done = subprocess.run(
        [sys.executable, __file__, str(place)],
        capture_output=True, text=True, cwd=ROOT, timeout=500, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), **FORKABLE},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def told(place: Path, name: str) -> dict[str, Any]:
    for log in sorted(place.glob(f"{name}-*.log")):
        print(log.name, log.read_text()[-3000:], sep="\n")  # noqa: T201 (shown where the test fails)
    found: dict[str, Any] = json.loads((place / f"{name}.json").read_text())
    return found


@pytest.mark.slow
def test_two_processes_share_the_cells_and_compute_none_twice(place: Path) -> None:
    found = told(place, "both-live")
    assert found["statuses"] == [0, 0]
    assert (found["there"], found["damaged"], found["removed"]) == (CELLS, 0, [])
    first, second = found["logs"].values()
    assert len({*first, *second}) == len(first) + len(second) == CELLS
    assert first and second
    outcomes = [json.loads(p.read_text()) for p in (place / "both-live").glob("outcome-*")]
    assert [o["computed"] + o["cached"] for o in outcomes] == [CELLS, CELLS]
    assert all(not o["failed"] for o in outcomes)


@pytest.mark.slow
def test_what_a_killed_process_was_at_is_done_by_the_other(place: Path) -> None:
    found = told(place, "one-dies")
    assert found["statuses"] == [-signal.SIGKILL, 0]
    assert (found["there"], found["damaged"]) == (CELLS, 0)
    dead, alive = found["logs"].values()
    twice = [digest for digest, times in Counter([*dead, *alive]).items() if times > 1]
    assert twice == [dead[-1]]
    assert found["removed"] == []  # the claim of the dead was taken over and given back


if __name__ == "__main__":
    scenes(Path(sys.argv[1]))
