"""The driver's side of a run that many workers share: which cell goes where, and what becomes of it.

It computes nothing, and holds nothing of a cell that is done. How workers are reached is not its affair.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable
from enum import Enum, auto
from typing import Any, Final

from bench.core.digest import JSON
from bench.run.cells import (
    Cell,
    ComparedCell,
    JudgedCell,
    MeasuredCell,
    ReferenceCell,
    TrialCell,
    UtilityCell,
)
from bench.run.leases import Lease
from bench.run.messages import Reply
from bench.run.parcels import adopt, pack
from bench.run.payload import PAYLOAD
from bench.run.plan import Plan
from bench.run.provenance import commit
from bench.run.rota import Rota
from bench.run.store import Store
from bench.run.survey import Survey, sound
from bench.run.watching import Outcome, Watcher

__all__ = ["Driver", "Lost", "Worker"]

MOST_DEATHS: Final = 5
"""Workers that may die at one cell before it counts as failed."""
_ALONE_FROM: Final = 2
"""After so many deaths a cell is tried when no other is: it may need the memory of all."""
_LOOK_AGAIN_S: Final = 1.0


class Lost(Exception):
    """A cell whose workers died again and again."""


class Worker(Enum):
    """The lot of a worker after its reply."""

    STAYS = auto()
    FRESH = auto()  # it is replaced by a new process: its memory ran out
    RETIRED = auto()  # its place is unfit


class Driver:
    """Hands out the cells of a run.

    Args:
        plan: What is computed.
        store: Where results go.
        watcher: Told of progress.
        found: What the store lacks.
        outcome: Counts what is done.
    """

    def __init__(
        self, plan: Plan, store: Store, watcher: Watcher, *, found: Survey, outcome: Outcome
    ) -> None:
        self._plan, self._store, self._watcher, self._outcome = plan, store, watcher, outcome
        self._rota = Rota(found.todo)
        self._retention = found.retention(plan, store)
        self._deaths: Counter[str] = Counter()
        self._alone: list[Cell] = []
        self._at: dict[Hashable, Cell] = {}
        self._claims: dict[Hashable, Lease] = {}
        self._number = 0
        self._waited = False

    @property
    def open(self) -> int:
        """How many cells are neither done nor lost."""
        return self._rota.open

    @property
    def at(self) -> dict[Hashable, Cell]:
        """The cells that workers are at."""
        return self._at

    def next(self, worker: Hashable, *, apart: bool) -> Cell | None:
        """Returns the next cell of a worker; ``None`` while there is none for it.

        Args:
            worker: Who asks.
            apart: It does not see the store, so the cell is claimed for it here.
        """
        self._rota.wake(time.monotonic())
        while (cell := self._take(worker)) is not None:
            if not apart or self._claimed(worker, cell):
                self._at[worker] = cell
                self._watcher.cell(cell, self._number)
                self._number += 1
                self._waited = False
                return cell
        if not self._at and self._rota.put_off and not self._waited:
            self._waited = True
            self._watcher.waiting(self.open)
        return None

    def said(self, worker: Hashable, reply: Reply, parcels: list[bytes]) -> Worker:
        """A worker has answered; returns what is to become of it."""
        cell = self._at.pop(worker)
        self._outcome.set_aside += reply.damaged
        try:
            if reply.fate == "unfit":
                self._rota.leave(worker)
                self._rota.again(cell)
                return Worker.RETIRED
            if reply.fate == "failed" and reply.memory and self._once_more(cell):
                self._watcher.worker_lost(f"{reply.message} ({cell.title})")
                return Worker.FRESH
            if reply.fate == "claimed":
                self._rota.again(cell, time.monotonic() + _LOOK_AGAIN_S)
                return Worker.STAYS
            for parcel in parcels:
                adopt(self._store, parcel)
        finally:
            self._unclaim(worker)
        self._outcome.model_seconds += reply.model_seconds
        if reply.fate == "failed":
            self._failed(cell, reply.message)
        else:
            self._done(cell, reply)
        return Worker.STAYS

    def died(self, worker: Hashable, reason: str) -> None:
        """A worker is gone, and with it the cell that it was at."""
        self._rota.leave(worker)
        self._unclaim(worker)
        cell = self._at.pop(worker, None)
        if cell is None:
            return
        self._watcher.worker_lost(f"{reason} ({cell.title})")
        if not self._once_more(cell):
            error = Lost(f"{MOST_DEATHS} workers died at it; the last: {reason}")
            about: dict[str, JSON] = {
                "title": cell.title,
                "parents": dict(cell.parents),
                "suite": self._plan.suite.name,
                "provenance": {**commit(), "base": self._plan.base},
            }
            self._store.fail(cell.kind, cell.digest, about, error)
            self._failed(cell, f"{type(error).__name__}: {error}")

    def parcels(self, cell: Cell, has: set[tuple[str, str]]) -> list[bytes]:
        """Returns what a worker with a store of its own lacks for a cell.

        Args:
            cell: Which.
            has: Kinds and digests that it holds; what is returned is added.
        """
        made = []
        for address in self._needs(cell):
            if address not in has and (entry := self._store.find(*address)) is not None:
                made.append(pack(entry))
                has.add(address)
        return made

    def close(self) -> None:
        """Gives back all claims."""
        for worker in list(self._claims):
            self._unclaim(worker)

    def _take(self, worker: Hashable) -> Cell | None:
        cell = self._rota.take(worker)
        if cell is None and self._alone and not self._at:
            return self._alone.pop()
        return cell

    def _claimed(self, worker: Hashable, cell: Cell) -> bool:
        claim = self._store.claim(cell.kind, cell.digest)
        if claim is None:
            self._rota.again(cell, time.monotonic() + _LOOK_AGAIN_S)
            return False
        if sound(self._store, cell) is not None:
            claim.release()
            self._done(cell, Reply("found"))
            return False
        self._claims[worker] = claim
        return True

    def _unclaim(self, worker: Hashable) -> None:
        if (claim := self._claims.pop(worker, None)) is not None:
            claim.release()

    def _once_more(self, cell: Cell) -> bool:
        """Puts a cell back whose worker is gone; returns False if that has happened too often."""
        self._deaths[cell.digest] += 1
        deaths = self._deaths[cell.digest]
        if deaths >= MOST_DEATHS:
            return False
        if deaths >= _ALONE_FROM:
            self._alone.append(cell)
        else:
            self._rota.again(cell)
        return True

    def _done(self, cell: Cell, reply: Reply) -> None:
        self._deaths.pop(cell.digest, None)
        if reply.fate == "found":
            self._outcome.cached += 1
            self._watcher.elsewhere(cell)
        else:
            self._outcome.computed += 1
            self._watcher.done(cell, reply.seconds)
        self._rota.done(cell)
        if self._retention is not None:
            self._retention.done(cell)

    def _failed(self, cell: Cell, message: str) -> None:
        self._outcome.failed.append((cell.title, message))
        self._watcher.failed(cell, _error(message))
        for other in self._rota.lost(cell):
            self._outcome.blocked.append(other.title)
            self._watcher.blocked(other)

    def _needs(self, cell: Cell) -> list[tuple[str, str]]:
        """The kinds and digests of what a cell reads."""
        match cell:
            case JudgedCell():
                return self._images(cell.trial)
            case MeasuredCell() | ComparedCell():
                return [*self._images(cell.utility), *self._images(cell.reference)]
            case TrialCell():
                return [(kind, cell.parents[kind]) for kind in ("edit", "attack")]
        return [("edit", cell.parents["edit"])] if "edit" in cell.parents else []

    def _images(self, cell: TrialCell | UtilityCell | ReferenceCell) -> list[tuple[str, str]]:
        """The entries of a cell that a score reads: rows and images, or what those are drawn again from."""
        drawn = [] if self._store.find(PAYLOAD, cell.digest) else self._needs(cell)
        return [(cell.kind, cell.digest), (PAYLOAD, cell.digest), *drawn]


def _error(message: str) -> Exception:
    """An error of the kind that a worker has told of."""
    name, found, text = message.partition(": ")
    kind: Any = type(name if found and name.isidentifier() else "Error", (Exception,), {})
    made: Exception = kind(text if found else message)
    return made
