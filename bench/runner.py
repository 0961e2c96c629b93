"""Computes the cells of a plan that the store does not hold yet; the store is the only memory between runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench import clock
from bench.digest import JSON
from bench.memory import peak_megabytes, reset_peak
from bench.model import TextToImage
from bench.plan import Cell, Plan
from bench.provenance import provenance
from bench.self_check import SelfCheck, self_check
from bench.stages import Workspace, compute
from bench.store import Store

__all__ = ["Outcome", "Watcher", "run_plan"]

log = logging.getLogger(__name__)


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


@dataclass(slots=True)
class Outcome:
    """What a run did.

    Attributes:
        computed: Cells computed now.
        cached: Cells that were there.
        failed: Title and message of failed cells.
        seconds: Wall-clock time.
        model_seconds: Of it, inside models.
        set_aside: Damaged entries that were found and put into quarantine.
        self_check: What the look at the base saw; ``None`` where nothing was to be computed.
    """

    computed: int = 0
    cached: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
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
    plan.check_base(base.backbone.folder)
    watcher = watcher or Watcher()
    began, inside = time.perf_counter(), clock.model_seconds()
    outcome = Outcome()
    unique = list({(c.kind, c.digest): c for c in plan.cells}.values())
    todo = [c for c in unique if store.find(c.kind, c.digest) is None]
    outcome.cached = len(unique) - len(todo)
    if todo:
        outcome.self_check = self_check(base, plan.sampler)
    watcher.begin(len(todo), len(unique))
    work = Workspace(plan, store, base, watcher.step)
    origin = provenance(base)
    for number, cell in enumerate(todo):
        if interrupt():
            break
        watcher.cell(cell, number)
        at, model_at = time.perf_counter(), clock.model_seconds()
        about: dict[str, JSON] = {
            "title": cell.title,
            "parents": dict(cell.parents),
            "suite": plan.suite.name,
            "provenance": origin,
        }
        reset_peak(base.backbone.device)
        base.micro.begin()
        try:
            record, write = compute(work, cell)
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
            if store.find(cell.kind, cell.digest) is None:
                store.fail(cell.kind, cell.digest, about, error)
                outcome.failed.append((cell.title, f"{type(error).__name__}: {error}"))
                watcher.failed(cell, error)
                log.debug("cell failed", exc_info=True)
                continue
        outcome.computed += 1
        watcher.done(cell, time.perf_counter() - at)
    outcome.set_aside = [f"{d.kind} {d.digest[:12]}: {d.reason}" for d in store.damage]
    outcome.seconds = time.perf_counter() - began
    outcome.model_seconds = clock.model_seconds() - inside
    return outcome
