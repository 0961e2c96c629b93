"""Hands out ten thousand cells that cost nothing, on a real local Ray, and prints what that cost the driver.

python -m tests.perf.handed_out FOLDER REPEATS WORKERS
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from pathlib import Path

from bench.config.suite import load_suite
from bench.model.pipeline.inspect import inspect_base
from bench.run.cells import Cell
from bench.run.loading import Runtime
from bench.run.on_ray import OnRay
from bench.run.plan import make_plan
from bench.run.ray_start import local_ray
from bench.run.store import Store
from bench.run.watching import Watcher

FEW = ["none", "destroyed", *({"uce": {"lam": lam}} for lam in (0.25, 0.5, 0.75))]


class Clock(Watcher):
    """The driver's seconds and memory when a tenth of the cells is done, and at the end."""

    def __init__(self, cells: int) -> None:
        self._left, self._tenth = cells, cells - cells // 10
        self.seconds = self.wall = 0.0
        self.megabytes: list[float] = []
        self.objects: list[int] = []

    def done(self, cell: Cell, seconds: float) -> None:
        self._left -= 1
        if self._left in (self._tenth, 0):
            gc.collect()
            self.objects.append(len(gc.get_objects()))
            self.megabytes.append(resident())
        if self._left == self._tenth:
            self.seconds, self.wall = -time.process_time(), -time.perf_counter()
        if self._left == 0:
            self.seconds += time.process_time()
            self.wall += time.perf_counter()


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(folder: Path, repeats: int, workers: int) -> None:
    suite = load_suite("mini-quick").with_(concepts=["all"], methods=FEW, repeats=repeats)
    base = inspect_base(suite.base)
    plan = make_plan(suite, base.digest, folder=base.folder)
    clock = Clock(len(plan.cells))
    with local_ray(workers):
        OnRay(workers=workers, runtime=Runtime("cpu"), bench="tests.simulated:Nothing").run(
            plan, Store(folder / "store"), clock
        )
    counted = 0.9 * len(plan.cells)
    print(  # noqa: T201
        json.dumps(
            {
                "cells": len(plan.cells),
                "driver_ms_per_cell": 1e3 * clock.seconds / counted,
                "wall_ms_per_cell_and_worker": 1e3 * workers * clock.wall / counted,
                "megabytes": clock.megabytes,
                "objects": clock.objects,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
