"""Runs the tiny suite on the miniature: in this process, and on two workers, one of which does not see the store."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.model.text_to_image import load_model
from bench.run.cells import Cell
from bench.run.collect import collect
from bench.run.executor import Executor, Inline
from bench.run.loading import Runtime
from bench.run.on_ray import OnRay
from bench.run.plan import Plan
from bench.run.ray_start import local_ray
from bench.run.store import Store
from bench.tables.tables import summarise
from tests.bench.run.ray_scenes import Heard, bytes_of, tiny
from tests.bench.run.test_on_ray import children, named

TIMES = ["edit_seconds", "edit_memory_mb"]


class Killer(Heard):
    """Kills a worker when some cells are done."""

    def __init__(self) -> None:
        super().__init__()
        self.killed = 0

    def done(self, cell: Cell, seconds: float) -> None:
        super().done(cell, seconds)
        if self.gone == 8:
            seats = [pid for pid in children(os.getpid()) if "ray::Seat" in title(pid)]
            os.kill(seats[0], signal.SIGKILL)
            self.killed += 1


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def told(plan: Plan, root: Path, executor: Executor, watcher: Heard) -> dict[str, Any]:
    store = Store(root)
    outcome = executor.run(plan, store, watcher)
    found = collect(plan, store)
    table = summarise(found.trials, found.utility, edits=found.edits, suite=plan.suite.name)
    text = table.drop(columns=TIMES).to_csv()
    return {
        **outcome.as_json(),
        "bytes": bytes_of(root),
        "table": hashlib.sha256(text.encode()).hexdigest(),
    }


def addresses(pids: list[int]) -> list[str]:
    """Where processes listen."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                found.add(address(words[1].partition(":")[0]))
    return sorted(found)


def address(text: str) -> str:
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    one = ipaddress.ip_address(b"".join(words))
    return str(getattr(one, "ipv4_mapped", None) or one)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    plan = tiny(folder)
    found: dict[str, Any] = {"cells": len(plan.cells)}
    found["here"] = told(plan, folder / "here", Inline(load_model()), Heard())
    with local_ray(2):
        (place,) = {
            Path(p).parts[2] for p in map(socket_of, named([*children(os.getpid())], "raylet")) if p
        }
        killer = Killer()
        (folder / "there").mkdir()
        executor = OnRay(workers=2, runtime=Runtime("cpu"), bench="tests.simulated:RealElsewhere")
        found["ray"] = told(plan, folder / "there" / "store", executor, killer)
        found["killed"] = killer.killed
        found["apart"] = (folder / "there" / "apart").exists()
        pids = list(children(os.getpid()))
        found["addresses"] = addresses([os.getpid(), *pids])
        idle = ("/monitor.py", "/log_monitor.py", "/dashboard.py")
        found["idle"] = [title(pid)[:100] for name in idle for pid in named(pids, name)]
        found["token"] = os.environ["RAY_AUTH_MODE"]
    found["left"] = [
        p.name for some in (place, "tvc-worker-") for p in Path("/tmp").glob(f"{some}*")
    ]
    end = time.monotonic() + 30
    while (
        alive := [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]
    ) and time.monotonic() < end:
        time.sleep(0.1)
    found["processes"] = [title(pid)[:100] for pid in alive]
    print(json.dumps(found))  # noqa: T201


def socket_of(pid: int) -> str:
    """The path of a raylet's socket, which lies in Ray's folder."""
    for word in title(pid).split("\0"):
        if word.startswith("--raylet_socket_name="):
            return word.partition("=")[2]
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
