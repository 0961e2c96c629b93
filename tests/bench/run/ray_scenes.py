"""Plays scenes of a run on a real local Ray in a process of its own, and prints what came of each.

    python tests/bench/run/ray_scenes.py FOLDER SCENE ...

The scenes share one Ray, since it takes seconds to start; each has a store of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.model.pipeline.inspect import inspect_base
from bench.run.cells import Cell
from bench.run.loading import Runtime
from bench.run.on_ray import OnRay
from bench.run.plan import Plan, make_plan
from bench.run.ray_start import local_ray
from bench.run.store import Store
from bench.run.watching import AtWork, Outcome, Watcher
from tests.tiny import SUITE

Told = dict[str, Any]
SCENES: dict[str, Callable[[Path], Told]] = {}
WORKERS = 2
GPUS = 2
"""That Ray is told of; there is none, and simulated cells need none."""
KILLS = int(os.environ.get("RAY_KILLS", "2"))


def scene(play: Callable[[Path], Told]) -> Callable[[Path], Told]:
    SCENES[play.__name__] = play
    return play


class Heard(Watcher):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.unplaced: list[tuple[int, int]] = []
        self.begun = self.gone = self.reports = 0

    def cell(self, cell: Cell, number: int) -> None:
        self.begun += 1

    def done(self, cell: Cell, seconds: float) -> None:
        self.gone += 1

    def at_work(self, workers: Sequence[AtWork]) -> None:
        self.reports += any(worker.total for worker in workers)

    def worker_lost(self, reason: str) -> None:
        self.lost.append(reason)

    def unseated(self, lacking: int, workers: int) -> None:
        self.unplaced.append((lacking, workers))


class Opener(Heard):
    """Lets held cells go on once as many workers as expected are said to be at one, and how far."""

    def __init__(self, at: Path, workers: int) -> None:
        super().__init__()
        self._go, self._workers = at / "go", workers

    def at_work(self, workers: Sequence[AtWork]) -> None:
        super().at_work(workers)
        if sum(w.what == "drawing" and w.total == 2 for w in workers) == self._workers:
            self._go.touch()


def tiny(at: Path, text: str = SUITE) -> Plan:
    (at / "tiny.yaml").write_text(text)
    suite = load_suite(at / "tiny.yaml")
    base = inspect_base(suite.base)
    return make_plan(suite, base.digest, folder=base.folder)


def simulated(
    at: Path, plan: Plan, orders: Told, bench: str = "Simulated", watcher: Watcher | None = None,
    **how: Any,
) -> Outcome:  # fmt: skip
    (at / "orders.json").write_text(json.dumps(orders))
    how = {"workers": WORKERS, "runtime": Runtime("cpu"), **how}
    executor = OnRay(**how, bench=f"tests.simulated:{bench}")
    return executor.run(plan, Store(at / "store"), watcher or Heard())


def told(at: Path, plan: Plan, outcome: Outcome) -> Told:
    """The things a test looks at: the outcome, what was begun how often, and the bytes of the store."""
    store = Store(at / "store")
    begun = Counter(line.split()[0] for line in (at / "log").read_text().splitlines())
    left = [p.name for a in ("tmp", "claims") for p in (at / "store" / a).glob("*")]
    return {
        **outcome.as_json(),
        "cells": len(plan.cells),
        "there": sum(store.find(c.kind, c.digest) is not None for c in plan.cells),
        "twice": sum(begun.values()) - len(begun),
        "damaged": len(store.verify()),
        "left": left,
        "bytes": bytes_of(at / "store"),
    }


def bytes_of(store: Path) -> str:
    """A digest of all that no clock has to do with; images may have been dropped."""
    whole = hashlib.sha256()
    for path in sorted(store.glob("*/??/*/**/*")):
        if path.relative_to(store).parts[0] == "images":
            continue
        if path.is_file() and path.name not in ("record.json", "manifest.json"):
            whole.update(f"{path.relative_to(store)}\n".encode() + path.read_bytes())
    return whole.hexdigest()


@scene
def unbroken(at: Path) -> Told:
    plan = tiny(at)
    return told(at, plan, simulated(at, plan, {}))


@scene
def workers_are_killed(at: Path) -> Told:
    plan, heard = tiny(at), Heard()
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        draw = random.Random(7)
        log = at / "log"
        while len(killed) < KILLS and not over.is_set():
            before = heard.gone
            while (heard.gone == before or not log.exists()) and not over.wait(0.005):
                pass
            over.wait(draw.random() * 0.2)
            pids = {int(line.split()[1]) for line in log.read_text().splitlines()[-WORKERS:]}
            pid = draw.choice(sorted(pids))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    outcome = simulated(at, plan, {"seconds": 0.15}, watcher=heard)
    over.set()
    thread.join()
    return told(at, plan, outcome) | {"killed": len(killed), "lost": heard.lost}


@scene
def memory_runs_out_once_and_another_process_holds_a_claim(at: Path) -> Told:
    plan, heard, store = tiny(at), Heard(), Store(at / "store")
    bad = next(c for c in plan.cells if c.kind == "trial")
    held = [c for c in plan.cells if c.kind == "edit"][-1]
    claim = store.claim(held.kind, held.digest)
    assert claim is not None
    timer = threading.Timer(3.0, claim.release)
    timer.start()
    outcome = simulated(at, plan, {"memory_once": bad.digest}, watcher=heard)
    return told(at, plan, outcome) | {"lost": heard.lost}


@scene
def a_cell_kills_whoever_tries_it(at: Path) -> Told:
    plan, heard = tiny(at), Heard()
    bad = next(c for c in plan.cells if c.kind == "utility")
    outcome = simulated(at, plan, {"poison": bad.digest}, watcher=heard)
    return told(at, plan, outcome) | {"lost": heard.lost, "bad": bad.title}


@scene
def every_disk_is_full_and_then_one(at: Path) -> Told:
    plan, every, one = tiny(at), Heard(), Heard()
    try:
        simulated(at, plan, {"small_files": "all"}, watcher=every)
        refused = ""
    except OSError as error:
        refused = f"{error.errno} {error.strerror}"
    outcome = simulated(at, plan, {"small_files": "one"}, watcher=one)
    return told(at, plan, outcome) | {
        "every_lost": every.lost, "one_lost": one.lost, "refused": refused,
    }  # fmt: skip


@scene
def gpus_are_shared_and_nobody_sees_the_store(at: Path) -> Told:
    """Each of the two GPUs that Ray is told of seats two; no fifth worker ever finds a place.

    Images are dropped when every score has seen them.
    """
    plan, heard = tiny(at, SUITE + "images: thumbnails\n"), Opener(at, 2 * GPUS)
    try:
        simulated(at, plan, {}, workers=2 * GPUS + 1, runtime=Runtime(), per_gpu=2)
        refused = ""
    except UsageError as error:
        refused = str(error)
    how: Told = {"workers": None, "runtime": Runtime(), "per_gpu": 2, "bench": "Elsewhere"}
    outcome = simulated(at, plan, {"hold": "attack"}, watcher=heard, **how)
    workers = [line.split()[1:] for line in (at / "workers").read_text().splitlines()]
    temporary = Path(tempfile.gettempdir())
    own = [p.name for some in ("", "tvc-ray-*/") for p in temporary.glob(f"{some}tvc-worker-*")]
    images = len(list((at / "store" / "images").glob("*/*")))
    return told(at, plan, outcome) | {
        "refused": refused, "workers": workers, "reports": heard.reports,
        "opened": (at / "go").exists(), "own": own, "images": images,
    }  # fmt: skip


@scene
def another_process_joins(at: Path) -> Told:
    """It asks for one worker more than there is room for; the cluster outlives it."""
    import ray

    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, __file__, str(at), "joined", address],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: Told = json.loads(done.stdout)
    alive = ray.get(ray.remote(lambda: "alive").remote(), timeout=60)
    same = ray.get_runtime_context().gcs_address == address
    return found | {"alive": alive, "same": same, "errors": done.stderr}


@scene
def a_cell_raises(at: Path) -> Told:
    plan = tiny(at)
    bad = next(c for c in plan.cells if c.kind == "attack")
    first = simulated(at, plan, {"raise": bad.digest}, bench="Elsewhere")
    failures = Store(at / "store").failures("attack", bad.digest)
    traces = [failure.traceback for failure in failures]
    return told(at, plan, simulated(at, plan, {}, workers=1)) | {
        "first": first.as_json(), "bad": bad.title, "traces": traces,
    }  # fmt: skip


def alone(at: Path) -> int:
    """Plays a run with a Ray of its own, as a command does; for those who kill it, or parts of it."""
    plan = tiny(at)
    try:
        outcome = simulated(at, plan, json.loads(os.environ.get("ORDERS", "{}")))
    except OSError as error:
        print(f"error: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 2
    print(json.dumps({"scene": "alone", **told(at, plan, outcome)}))  # noqa: T201
    return 0


def joined(at: Path, address: str) -> int:
    """Plays a run on a cluster that somebody else has started."""
    plan, heard = tiny(at), Heard()
    outcome = simulated(at, plan, {}, watcher=heard, workers=WORKERS + 1, address=address)
    print(json.dumps({**told(at, plan, outcome), "unplaced": heard.unplaced}))  # noqa: T201
    return 0


def main(folder: Path, names: Sequence[str]) -> None:
    began = time.monotonic()
    with local_ray(WORKERS, gpus=GPUS):
        for name in names:
            at = folder / name
            at.mkdir()
            try:
                found = SCENES[name](at)
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps({"scene": name, **found}), flush=True)  # noqa: T201
            print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    if sys.argv[2:] == ["alone"]:
        sys.exit(alone(Path(sys.argv[1])))
    if sys.argv[2:3] == ["joined"]:
        sys.exit(joined(Path(sys.argv[1]), sys.argv[3]))
    main(Path(sys.argv[1]), sys.argv[2:])
