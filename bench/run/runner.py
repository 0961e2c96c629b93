"""Computes the cells of a plan that the store does not hold yet; the store is the only memory between runs.

Any number of processes may run one plan on one store: each claims a cell before it computes it, leaves
alone what another has claimed, and in the end waits for that, or does it itself if its owner dies.
Nobody holds a claim while waiting, so nobody waits for ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.core import clock
from bench.core.digest import JSON, DamagedError
from bench.core.environment import fault
from bench.core.memory import peak_megabytes, reset_peak
from bench.model.text_to_image import TextToImage
from bench.run.cells import Cell, ScoreCell
from bench.run.contents import check
from bench.run.plan import Plan
from bench.run.provenance import provenance
from bench.run.retention import Retention
from bench.run.self_check import SelfCheck, self_check
from bench.run.stages.compute import compute
from bench.run.stages.workspace import Workspace
from bench.run.store import Entry, Store

__all__ = ["Outcome", "Watcher", "run_plan"]

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0


class Watcher:
    """Is told of a run's progress; this one says nothing."""

    def begin(self, todo: int, total: int) -> None:
        """``todo`` of ``total`` cells have to be computed."""

    def cell(self, cell: Cell, number: int) -> None:
        """Cell ``number`` (from 0) of those to do begins."""

    def step(self, done: int, total: int, what: str) -> None:
        """The current cell is at ``done`` of ``total``."""

    def done(self, cell: Cell, seconds: float) -> None:
        """The current cell is in the store."""

    def failed(self, cell: Cell, error: BaseException) -> None:
        """The current cell failed; its traceback is in the store."""

    def blocked(self, cell: Cell) -> None:
        """A cell of those to do was left out: one that it needs has failed."""

    def elsewhere(self, cell: Cell) -> None:
        """A cell of those to do is in the store: another process has computed it."""

    def waiting(self, count: int) -> None:
        """Nothing is left to do but ``count`` cells that other processes are at."""


@dataclass(slots=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        computed: Cells computed now.
        cached: Cells that were there, or that another process computed meanwhile.
        failed: Title and message of failed cells.
        blocked: Titles of cells that were not tried, since one that they need has failed.
        seconds: Wall-clock time.
        model_seconds: Of it, inside models.
        set_aside: Damaged entries that were found and put into quarantine.
        self_check: What the look at the base saw; ``None`` where nothing was to be computed.
    """

    computed: int = 0
    cached: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    seconds: float = 0.0
    model_seconds: float = 0.0
    set_aside: list[str] = field(default_factory=list)
    self_check: SelfCheck | None = None

    @property
    def overhead(self) -> float:
        """Share of the time spent outside the models' own compute."""
        return 1 - self.model_seconds / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "computed": self.computed,
            "cached": self.cached,
            "failed": [{"cell": title, "error": message} for title, message in self.failed],
            "blocked": self.blocked,
            "seconds": round(self.seconds, 3),
            "model_seconds": round(self.model_seconds, 3),
            "overhead": round(self.overhead, 4),
            "set_aside": self.set_aside,
            "self_check": self.self_check and self.self_check.as_json(),
        }


def run_plan(
    plan: Plan,
    store: Store,
    base: TextToImage,
    watcher: Watcher | None = None,
    *,
    interrupt: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Computes what is missing, in the plan's order. A failed cell is recorded and the others go on.

    What needs a failed cell is *blocked*: it is not tried and leaves no record.

    Args:
        plan: What to compute.
        store: Where results are and go.
        base: The unedited model; its digest is the plan's.
        watcher: Told of progress.
        interrupt: Asked before each cell; true ends the run.

    Returns:
        What was done. Interrupts (``KeyboardInterrupt``, SIGKILL) lose the current cell only.

    Raises:
        ValueError: the model is not the one the plan was made for.
        UsageError: a part of the suite does not suit the base, or the base is broken.
        OSError: the store cannot be written; what is in it is sound.
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
    watcher = watcher or Watcher()
    began, inside = time.perf_counter(), clock.model_seconds()
    outcome = Outcome()
    unique = list({(c.kind, c.digest): c for c in plan.cells}.values())
    todo = [c for c in unique if _find(store, c) is None]
    outcome.cached = len(unique) - len(todo)
    if any(not isinstance(cell, ScoreCell) for cell in todo):  # scores ask nothing of the base
        outcome.self_check = self_check(base, plan.sampler)
    watcher.begin(len(todo), len(unique))
    retention = Retention(store, unique, todo) if plan.suite.images == "thumbnails" else None
    space = Workspace(plan, store, base, watcher.step)
    worker = _Worker(store, base, watcher, outcome, space, retention)
    worker.work(todo, interrupt)
    outcome.set_aside = [f"{d.kind} {d.digest[:12]}: {d.reason}" for d in store.damage]
    outcome.seconds = time.perf_counter() - began
    outcome.model_seconds = clock.model_seconds() - inside
    return outcome


def _find(store: Store, cell: Cell) -> Entry | None:
    """The cell's entry; one whose files do not hold what they should is set aside and counts as none."""
    while (entry := store.find(cell.kind, cell.digest)) is not None:
        try:
            check(entry)
        except DamagedError as error:
            store.reject(entry, str(error))
            if store.damage and store.damage[-1].path == entry.path:  # it may not be moved
                return None
            continue
        return entry
    return None


class _Worker:
    """One process's part in a plan."""

    def __init__(
        self,
        store: Store,
        base: TextToImage,
        watcher: Watcher,
        outcome: Outcome,
        work: Workspace,
        retention: Retention | None,
    ) -> None:
        self._store, self._base, self._watcher = store, base, watcher
        self._outcome, self._workspace = outcome, work
        self._origin = provenance(base)
        self._number = 0
        self._lost: set[str] = set()  # digests of cells that failed, or are blocked
        self._retention = retention

    def work(self, todo: list[Cell], interrupt: Callable[[], bool]) -> None:
        """Sees every cell into the store, or its failure; an interrupt ends it between cells."""
        wait = _FIRST_WAIT_S
        while todo:
            left: list[Cell] = []
            for cell in todo:
                if interrupt():
                    return
                waits = {c.digest for c in left}
                if not self._lost.isdisjoint(cell.parents.values()):
                    self._block(cell)
                # A parent comes first in the plan: where it waits, another process is at it.
                elif not waits.isdisjoint(cell.parents.values()) or not self._take(cell):
                    left.append(cell)
            if len(left) == len(todo):
                if wait == _FIRST_WAIT_S:
                    self._watcher.waiting(len(left))
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)
            else:
                wait = _FIRST_WAIT_S
            todo = left

    def _take(self, cell: Cell) -> bool:
        """Computes a cell, or finds it computed; returns False if another process has claimed it."""
        claim = self._store.claim(cell.kind, cell.digest)
        if claim is None:
            return False
        with claim:
            if _find(self._store, cell) is not None:
                self._outcome.cached += 1
                self._watcher.elsewhere(cell)
            else:
                self._watcher.cell(cell, self._number)
                self._compute(cell)
        self._number += 1
        if self._retention is not None and cell.digest not in self._lost:
            self._retention.done(cell)
        return True

    def _block(self, cell: Cell) -> None:
        self._lost.add(cell.digest)
        self._outcome.blocked.append(cell.title)
        self._watcher.blocked(cell)
        self._number += 1

    def _compute(self, cell: Cell) -> None:
        store, base = self._store, self._base
        at, model_at = time.perf_counter(), clock.model_seconds()
        about: dict[str, JSON] = {
            "title": cell.title,
            "parents": dict(cell.parents),
            "suite": self._workspace.plan.suite.name,
            "provenance": self._origin,
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
                return
        self._outcome.computed += 1
        self._watcher.done(cell, time.perf_counter() - at)
