"""A worker's side of a run that many share: it makes the plan anew, loads the base, and computes cells by name.

What comes to it and goes from it is JSON and bytes, so it does not matter how it is reached. Where it
sees the store of the run, results go there. Where it does not, it has a store of its own: what a cell
needs comes as parcels (:mod:`bench.run.parcels`), and so does what it makes.
"""

from __future__ import annotations

import importlib
import os
import platform
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.core import heap
from bench.core.digest import StoreError, digest_of
from bench.core.environment import line
from bench.core.errors import UsageError
from bench.run.messages import Job, Reply
from bench.run.parcels import adopt, pack, pack_failure
from bench.run.payload import PAYLOAD
from bench.run.scraps import own_folder
from bench.run.store import Store
from bench.run.watching import Outcome, Watcher

if TYPE_CHECKING:
    from bench.run.cells import Cell
    from bench.run.plan import Plan
    from bench.run.runner import Fate, Worker

__all__ = ["Bench", "Seat", "Workbench", "begun", "plan_of", "same_plan"]

_MEMORY: Final = ("OutOfMemoryError", "MemoryError")
_NO_MEMORY: Final = ("can't allocate memory", "Cannot allocate memory", "std::bad_alloc")


def plan_of(job: Job) -> tuple[Plan, Any]:
    """Returns the plan of a job, made anew, and the base's files.

    Raises:
        UsageError: it is not that of whoever sent the job.
    """
    from bench.config.suite import Suite, SuiteFile
    from bench.model.pipeline.inspect import inspect_base
    from bench.run.plan import make_plan

    suite = Suite.of(SuiteFile.of(job.suite))
    files = inspect_base(suite.base, commit=suite.revision)
    plan = make_plan(suite, files.digest, folder=files.folder, only=job.only, limit=job.limit)
    if same_plan(plan.cells) != job.cells:
        raise UsageError(
            f"{platform.node()}: expected the plan of the command, got another: its version of the code, the "
            "base or a file of the suite differs; bring both to the same state"
        )
    return plan, files


def same_plan(cells: Iterable[Cell]) -> str:
    """Returns a digest that two plans share if they have the same cells."""
    return digest_of([cell.digest for cell in cells])


class Bench:
    """A store, the run's or one of its own, and cells that are done by name; subclasses do them."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._open = ExitStack()
        self.apart = not Path(job.token).is_file()
        self.store = Store(self._own() if self.apart else Path(job.store))
        self._told: tuple[int, int, str] = (0, 0, "")

    @property
    def at(self) -> tuple[int, int, str]:
        """How far the current cell is: steps done, of how many, and what they are."""
        return self._told

    def ready(self) -> Reply:
        """Says that cells can come."""
        return Reply("ready", apart=self.apart, where=f"{platform.node()} {os.getpid()}")

    def do(self, digest: str, parcels: Sequence[bytes]) -> tuple[Reply, list[bytes]]:
        """Computes a cell.

        Args:
            digest: Of the cell.
            parcels: What it needs, where this store is another than the run's.

        Returns:
            What became of it, and for another store what it made.
        """
        self._told = (0, 0, "")
        before = len(self.store.damage)
        try:
            for parcel in parcels:
                adopt(self.store, parcel)
            reply, kind = self.compute(digest)
        except OSError as error:
            return Reply("unfit", line(error), number=error.errno or 0), []
        damaged = tuple(f"{d.kind} {d.digest[:12]}: {d.reason}" for d in self.store.damage[before:])
        reply = Reply(**{**asdict(reply), "damaged": damaged})
        return reply, self._made(kind, digest, reply) if self.apart else []

    def compute(self, digest: str) -> tuple[Reply, str]:
        """Computes a cell; returns what became of it, and its kind."""
        raise NotImplementedError

    def forget(self) -> None:
        """Empties a store of its own: what comes next needs nothing of it."""
        if self.apart:
            self._open.close()
            self.store = Store(self._own())

    def close(self) -> None:
        """Removes a store of its own."""
        self._open.close()

    def _own(self) -> Path:
        return self._open.enter_context(own_folder("tvc-worker-")) / "store"

    def _made(self, kind: str, digest: str, reply: Reply) -> list[bytes]:
        if reply.fate == "failed":
            parcels = [pack_failure(f) for f in self.store.failures(kind, digest)[-1:]]
            self.store.clear_failures(kind, digest)
            return parcels
        entries = (self.store.find(kind, digest), self.store.find(PAYLOAD, digest))
        return [pack(entry) for entry in entries if entry is not None]


class Workbench(Bench):
    """Computes the cells of a plan with the base on a device."""

    def __init__(self, job: Job) -> None:
        heap.keep()
        import torch

        from bench.run.loading import load_base
        from bench.run.runner import Worker, check_model
        from bench.run.self_check import self_check
        from bench.run.stages.workspace import Workspace

        if job.threads:
            torch.set_num_threads(job.threads)
        super().__init__(job)
        plan, files = plan_of(job)
        self._base = load_base(files, plan.suite.dtype, job.runtime)
        check_model(plan, self._base)
        self._check = self_check(self._base, plan.sampler)
        self._plan, self._cells = plan, {cell.digest: cell for cell in plan.cells}
        self._outcome: Outcome = Outcome()
        self._make: Callable[[], Worker] = lambda: Worker(
            Workspace(plan, self.store, self._base, self._step), Watcher(), self._outcome,
            check=self._check,
        )  # fmt: skip
        self._worker = self._make()

    def ready(self) -> Reply:
        """Says that cells can come, and what the look at the base saw."""
        return Reply(**{**asdict(super().ready()), "check": self._check.as_json()})

    def forget(self) -> None:
        """Empties a store of its own, and forgets what it has read there."""
        super().forget()
        if self.apart:
            self._worker = self._make()

    def compute(self, digest: str) -> tuple[Reply, str]:
        """Computes a cell; returns what became of it, and its kind."""
        import time

        import torch

        from bench.core import clock

        if self.job.threads:
            torch.set_num_threads(self.job.threads)  # each thread has a number of its own
        cell = self._cells[digest]
        at, inside = time.perf_counter(), clock.model_seconds()
        fate: Fate = self._worker.take(cell)
        message = self._outcome.failed.pop()[1] if self._outcome.failed else ""
        return Reply(
            fate.name.lower(), message,
            seconds=time.perf_counter() - at, model_seconds=clock.model_seconds() - inside,
            memory=bool(message) and _of_memory(message),
        ), cell.kind  # fmt: skip

    def _step(self, done: int, total: int, what: str) -> None:
        self._told = (done, total, what)


def begun(make: Callable[[Job], Bench], text: str) -> tuple[Bench | None, Reply]:
    """Returns a bench that can do cells, or ``None`` and why there is none.

    Args:
        make: Its class.
        text: The job.
    """
    try:
        bench = make(Job.from_json(text))
        return bench, bench.ready()
    except (UsageError, StoreError) as error:
        return None, Reply("refused", str(error), where=platform.node())
    except OSError as error:
        return None, Reply("unfit", line(error), where=platform.node(), number=error.errno or 0)
    except Exception as error:  # whatever networks and libraries raise: the driver tells of it
        told = "".join(traceback.format_exception(error))
        return None, Reply(
            "broken", f"{type(error).__name__}: {error}\n{told}", where=platform.node()
        )


def _of_memory(message: str) -> bool:
    kind = message.partition(":")[0]
    return kind in _MEMORY or any(text in message for text in _NO_MEMORY)


class Seat:
    """The place of a worker in a process of its own; every message to it and from it is text and bytes."""

    def __init__(self) -> None:
        self._bench: Bench | None = None

    def begin(self, bench: str, job: str) -> str:
        """Makes a bench.

        Args:
            bench: The name of its class, ``module:Class``.
            job: JSON of a :class:`Job`.

        Returns:
            JSON of a :class:`Reply`.
        """
        module, _, name = bench.partition(":")
        make = vars(importlib.import_module(module))[name]
        self._bench, reply = begun(make, job)
        return reply.as_json()

    def do(self, digest: str, parcels: list[bytes]) -> tuple[str, list[bytes]]:
        """Computes a cell; returns the JSON of a :class:`Reply`, and parcels."""
        reply, made = self._there.do(digest, parcels)
        return reply.as_json(), made

    def at(self) -> tuple[int, int, str]:
        """How far the current cell is; it may be asked while a cell is computed."""
        return self._there.at

    def forget(self) -> None:
        """See :meth:`Bench.forget`."""
        self._there.forget()

    def close(self) -> None:
        """See :meth:`Bench.close`."""
        if self._bench is not None:
            self._bench.close()

    @property
    def _there(self) -> Bench:
        if self._bench is None:
            raise RuntimeError("expected a bench that has begun, got none")
        return self._bench
