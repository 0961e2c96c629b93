"""The tale of a run: its progress while it goes on, and the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.run.cells import Cell

if TYPE_CHECKING:
    from bench.run.self_check import SelfCheck

__all__ = ["AtWork", "Outcome", "Watcher"]


@dataclass(frozen=True, slots=True)
class AtWork:
    """The state of one of several workers.

    Attributes:
        title: Of its cell.
        done: Steps of the cell that are done.
        total: Of how many; 0: nobody knows.
        what: The steps.
    """

    title: str
    done: int = 0
    total: int = 0
    what: str = ""


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

    def at_work(self, workers: Sequence[AtWork]) -> None:
        """Several workers are at a cell each, and this far."""

    def worker_lost(self, reason: str) -> None:
        """A worker is gone; its cell is done by another."""

    def unseated(self, lacking: int, workers: int) -> None:
        """``lacking`` of ``workers`` find no place in the cluster yet."""


@dataclass(slots=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        computed: Cells computed now.
        cached: Cells that were there, or that another process computed meanwhile.
        failed: Title and message of failed cells.
        blocked: Titles of cells that were not tried, since one that they need has failed.
        elsewhere: Of a share, cells of other shares that are still to be computed.
        workers: Processes that shared the work.
        seconds: Wall-clock time.
        model_seconds: Of it, inside models, over all workers.
        set_aside: Damaged entries that were found and put into quarantine.
        self_check: What the look at the base saw; ``None`` where nothing was to be computed.
    """

    computed: int = 0
    cached: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    elsewhere: int = 0
    workers: int = 1
    seconds: float = 0.0
    model_seconds: float = 0.0
    set_aside: list[str] = field(default_factory=list)
    self_check: SelfCheck | None = None

    @property
    def overhead(self) -> float:
        """Share of the time spent outside the models' own compute."""
        there = self.workers * self.seconds
        return 1 - self.model_seconds / there if there else 0.0

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
