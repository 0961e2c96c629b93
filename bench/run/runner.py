"""Computes the cells of a plan that the store does not hold yet; the store is the only memory between runs.

Any number of processes may run one plan on one store. Each claims a cell before it computes it, and
leaves alone what another has claimed. In the end it waits for that, or does it itself if its owner dies.
Nobody holds a claim while waiting, so nobody waits for ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum, auto

from bench.core import clock
from bench.core.digest import JSON
from bench.core.environment import fault
from bench.core.memory import peak_megabytes, reset_peak
from bench.model.text_to_image import TextToImage
from bench.run.cells import Cell
from bench.run.chains import Share
from bench.run.plan import Plan
from bench.run.provenance import provenance
from bench.run.retention import Retention
from bench.run.self_check import SelfCheck, self_check
from bench.run.stages.compute import compute
from bench.run.stages.workspace import Workspace
from bench.run.store import Store
from bench.run.survey import sound, survey
from bench.run.watching import Outcome, Watcher

__all__ = [
    "Fate", "Outcome", "Watcher", "Worker", "check_model", "run_plan",
]  # fmt: skip

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0


class Fate(Enum):
    """The end of an attempt at a cell."""

    COMPUTED = auto()
    FOUND = auto()  # in the store, by another process
    FAILED = auto()  # its traceback is in the store
    CLAIMED = auto()  # another process is at it


def check_model(plan: Plan, base: TextToImage) -> None:
    """Refuses a model that is not the one the plan was made for.

    Raises:
        ValueError: it has another digest or another precision.
        UsageError: a part of the suite does not suit it.
    """
    if base.backbone.digest != plan.base:
        raise ValueError(
            f"the plan is for base {plan.base[:12]}, but the model is {base.backbone.digest[:12]}"
        )
    dtype = str(base.backbone.dtype).removeprefix("torch.")
    if dtype != plan.suite.dtype:
        raise ValueError(
            f"the plan is for a base in {plan.suite.dtype}, but the model is in {dtype}"
        )
    if plan.folder is None:  # else it was checked as it was made: a checkpoint is read whole
        plan.check_base(base.backbone.folder)


def run_plan(
    plan: Plan,
    store: Store,
    base: TextToImage,
    watcher: Watcher | None = None,
    *,
    share: Share | None = None,
    interrupt: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Computes what is missing, in the plan's order. A failed cell is recorded and the others go on.

    What needs a failed cell is *blocked*: it is not tried and leaves no record.

    Args:
        plan: What to compute.
        store: Where results are and go.
        base: The unedited model; its digest is the plan's.
        watcher: Told of progress.
        share: Of several that are computed apart; ``None``: the whole.
        interrupt: Asked before each cell; true ends the run.

    Returns:
        What was done. Interrupts (``KeyboardInterrupt``, SIGKILL) lose the current cell only.

    Raises:
        ValueError: the model is not the one the plan was made for.
        UsageError: a part of the suite does not suit the base, or the base is broken.
        OSError: the store cannot be written; what is in it is sound.
    """
    check_model(plan, base)
    watcher = watcher or Watcher()
    began, inside = time.perf_counter(), clock.model_seconds()
    outcome = Outcome()
    found = survey(plan, store, share)
    outcome.cached = len(found.unique) - len(found.lacking)
    if found.samples:
        outcome.self_check = self_check(base, plan.sampler)
    watcher.begin(len(found.todo), len(found.unique))
    space = Workspace(plan, store, base, watcher.step)
    worker = Worker(space, watcher, outcome, found.retention(plan, store), check=outcome.self_check)
    worker.work(found.todo, interrupt)
    outcome.set_aside = [f"{d.kind} {d.digest[:12]}: {d.reason}" for d in store.damage]
    outcome.seconds = time.perf_counter() - began
    outcome.model_seconds = clock.model_seconds() - inside
    return outcome


class Worker:
    """One process's part in a plan.

    Args:
        work: Plan, store and base.
        watcher: Told of progress.
        outcome: Counts what is done.
        retention: Told of what is in the store, if images are not kept.
        check: What the look at the base saw, for the record of each cell.
    """

    def __init__(
        self,
        work: Workspace,
        watcher: Watcher,
        outcome: Outcome,
        retention: Retention | None = None,
        *,
        check: SelfCheck | None = None,
    ) -> None:
        self._store, self._base, self._watcher = work.store, work.base, watcher
        self._outcome, self._workspace = outcome, work
        self._origin: dict[str, JSON] = {"provenance": provenance(work.base)}
        if check is not None:
            self._origin["self_check"] = dict(check.as_json())
        self._number = 0
        self._lost: set[str] = set()  # digests of cells that failed, or are blocked
        self._retention = retention

    def work(self, todo: list[Cell], interrupt: Callable[[], bool]) -> None:
        """Sees every cell into the store, or its failure; an interrupt ends it between cells."""
        wait = _FIRST_WAIT_S
        while todo:
            left: list[Cell] = []
            waits: set[str] = set()
            for cell in todo:
                if interrupt():
                    return
                if not self._lost.isdisjoint(cell.parents.values()):
                    self._block(cell)
                # A parent comes first in the plan: where it waits, another process is at it.
                elif not waits.isdisjoint(cell.parents.values()) or self.take(cell) is Fate.CLAIMED:
                    left.append(cell)
                    waits.add(cell.digest)
            if len(left) == len(todo):
                if wait == _FIRST_WAIT_S:
                    self._watcher.waiting(len(left))
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)
            else:
                wait = _FIRST_WAIT_S
            todo = left

    def take(self, cell: Cell) -> Fate:
        """Computes a cell whose parents are there, or finds it computed or claimed."""
        claim = self._store.claim(cell.kind, cell.digest)
        if claim is None:
            return Fate.CLAIMED
        with claim:
            if sound(self._store, cell) is not None:
                self._outcome.cached += 1
                self._watcher.elsewhere(cell)
                fate = Fate.FOUND
            else:
                self._watcher.cell(cell, self._number)
                fate = self._compute(cell)
        self._number += 1
        if self._retention is not None and fate is not Fate.FAILED:
            self._retention.done(cell)
        return fate

    def _block(self, cell: Cell) -> None:
        self._lost.add(cell.digest)
        self._outcome.blocked.append(cell.title)
        self._watcher.blocked(cell)
        self._number += 1

    def _compute(self, cell: Cell) -> Fate:
        store, base = self._store, self._base
        at, model_at = time.perf_counter(), clock.model_seconds()
        about: dict[str, JSON] = {
            "title": cell.title,
            "parents": dict(cell.parents),
            "suite": self._workspace.plan.suite.name,
            **self._origin,
        }
        reset_peak(base.backbone.device)
        base.micro.begin()
        try:
            record, write = compute(self._workspace, cell)
            timing = {
                "seconds": time.perf_counter() - at,
                "model_seconds": clock.model_seconds() - model_at,
                "micro_batch": base.micro.used,
                "peak_memory_mb": peak_megabytes(base.backbone.device),
            }
            store.publish(
                cell.kind, cell.digest, {**about, "cell": record, "timing": timing}, write
            )
            store.clear_failures(cell.kind, cell.digest)
        except Exception as error:
            if (unfit := fault(error)) is not None:  # the next cell would meet it too
                unfit.filename = unfit.filename or str(store.root)
                raise unfit from (None if unfit is error else error)
            if store.find(cell.kind, cell.digest) is None:
                store.fail(cell.kind, cell.digest, about, error)
                self._lost.add(cell.digest)
                self._outcome.failed.append((cell.title, f"{type(error).__name__}: {error}"))
                self._watcher.failed(cell, error)
                log.debug("cell failed", exc_info=True)
                return Fate.FAILED
        self._outcome.computed += 1
        self._watcher.done(cell, time.perf_counter() - at)
        return Fate.COMPUTED
