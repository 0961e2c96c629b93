"""Cells that cost nothing, for what is about the way they are handed out: drawn rows, and faults to order.

A worker's own part is real: its process, its store, its claims, the errors of the system. Only what a
network would compute is drawn (`tests.perf.full_store`), by the cell's digest, so every run draws the same.
`orders.json` beside the store says what goes wrong, and `log` there says who began what.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.environment import fault
from bench.run.cells import Cell, ReferenceCell, TrialCell, UtilityCell
from bench.run.messages import Job, Reply
from bench.run.payload import PAYLOAD, write_images
from bench.run.workbench import Bench, Workbench, plan_of
from tests.perf.full_store import made

__all__ = ["Elsewhere", "Nothing", "RealElsewhere", "Simulated"]


class Simulated(Bench):
    """Publishes drawn results."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        plan, _ = plan_of(job)
        self._cells = {cell.digest: cell for cell in plan.cells}
        self._place = Path(job.store).parent
        self._orders: dict[str, Any] = json.loads((self._place / "orders.json").read_text())
        with (self._place / "workers").open("a") as file:
            file.write(
                f"{os.getpid()} {job.runtime.device} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n"
            )
        small = self._orders.get("small_files")
        if small == "all" or (small == "one" and self._first("small")):
            resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    def compute(self, digest: str) -> tuple[Reply, str]:
        cell = self._cells[digest]
        if (claim := self.store.claim(cell.kind, digest)) is None:
            return Reply("claimed"), cell.kind
        with claim:
            if self.store.find(cell.kind, digest) is not None:
                return Reply("found"), cell.kind
            self._log(digest)
            try:
                self._go_wrong(cell)
                self._publish(cell)
            except Exception as error:
                if (unfit := fault(error)) is not None:
                    raise unfit from error
                self.store.fail(cell.kind, digest, {"title": cell.title}, error)
                told = f"{type(error).__name__}: {error}"
                return Reply("failed", told, memory=isinstance(error, MemoryError)), cell.kind
            self.store.clear_failures(cell.kind, digest)
        return Reply("computed", seconds=0.001), cell.kind

    def _go_wrong(self, cell: Cell) -> None:
        self._told = (1, 2, "drawing")
        if cell.kind == self._orders.get("hold"):
            self._held()
        begun = len((self._place / "log").read_text().splitlines())
        long = begun > self._orders.get("slow_after", begun)
        time.sleep(60.0 if long else self._orders.get("seconds", 0.0))
        if cell.digest == self._orders.get("raise"):
            raise ValueError("as ordered")
        if cell.digest == self._orders.get("memory_once") and self._first("memory"):
            raise MemoryError("as ordered")
        if cell.digest == self._orders.get("poison"):
            os.kill(os.getpid(), signal.SIGKILL)

    def _held(self) -> None:
        """Waits for the file ``go``, and for no longer than a minute."""
        end = time.monotonic() + 60
        while not (self._place / "go").exists() and time.monotonic() < end:
            time.sleep(0.05)

    def _publish(self, cell: Cell) -> None:
        rng = np.random.default_rng(int(cell.digest[:8], 16))
        if not self._orders.get("bare"):
            for role, parent in cell.parents.items():  # it is there, or the order was wrong
                if (cell.kind, role) != ("utility", "reference"):  # its prompts are in the plan
                    assert any(self.store.root.glob(f"*/{parent[:2]}/{parent}")), cell.title
            if isinstance(cell, TrialCell | UtilityCell | ReferenceCell):
                images = rng.integers(0, 255, (2, 8, 8, 3)).astype(np.uint8)
                self.store.publish(PAYLOAD, cell.digest, {}, lambda at: write_images(at, images))
        record, write = made(cell, rng)
        timing = {"seconds": 1.0, "model_seconds": 0.9, "micro_batch": 64, "peak_memory_mb": 1e3}
        self.store.publish(cell.kind, cell.digest, {"cell": record, "timing": timing}, write)

    def _log(self, digest: str) -> None:
        with (self._place / "log").open("a") as file:
            file.write(f"{digest} {os.getpid()}\n")

    def _first(self, name: str) -> bool:
        """Whether no process has asked for the name before."""
        try:
            (self._place / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Nothing(Bench):
    """Says of every cell that it is computed: all that is left is the handing out."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        plan_of(job)

    def compute(self, digest: str) -> tuple[Reply, str]:
        return Reply("computed"), "edit"


class Elsewhere(Simulated):
    """A worker on a machine that does not see the run's store."""

    def __init__(self, job: Job) -> None:
        super().__init__(replace(job, token="/nowhere"))


class RealElsewhere(Workbench):
    """A worker with the base; the first of all does not see the run's store."""

    def __init__(self, job: Job) -> None:
        try:
            (Path(job.store).parent / "apart").touch(exist_ok=False)
        except FileExistsError:
            super().__init__(job)
        else:
            super().__init__(replace(job, token="/nowhere"))
