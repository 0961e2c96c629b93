"""Shows a run's progress: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.run.watching import Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.run.plan import Cell
    from bench.run.watching import AtWork

__all__ = ["LiveWatcher", "PlainWatcher", "watcher_for"]

_PLAIN_EVERY_S = 10.0


class _Rate:
    """Steps per second of the current cell."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, done: int) -> str:
        seconds = time.monotonic() - self._began
        return f"{done / seconds:.1f}/s" if seconds > 0.05 and done else ""


class LiveWatcher(Watcher):
    """Two bars: the cells of the run, and the steps of the current cell."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._all = self._bars.add_task("cells", total=None, rate="")
        self._one = self._bars.add_task("", total=None, rate="")
        self._rate = _Rate()

    def begin(self, todo: int, total: int) -> None:
        """Starts the bars."""
        self._console.print(f"{total} cells, {total - todo} already in the store", emoji=False)
        self._bars.update(self._all, total=todo)
        self._bars.start()

    def cell(self, cell: Cell, number: int) -> None:
        """Names the current cell."""
        self._rate = _Rate()
        self._bars.reset(self._one, total=None, description=cell.title[:60], rate="")

    def step(self, done: int, total: int, what: str) -> None:
        """Moves the cell's bar."""
        self._bars.update(self._one, completed=done, total=total, rate=f"{what} {self._rate(done)}")

    def done(self, cell: Cell, seconds: float) -> None:
        """Moves the run's bar."""
        self._bars.advance(self._all)

    def failed(self, cell: Cell, error: BaseException) -> None:
        """Says what failed."""
        self._bars.advance(self._all)
        self._console.print("failed", style="red", end=" ")
        self._console.print(
            f"{cell.title}: {type(error).__name__}: {error}", markup=False, emoji=False
        )

    def blocked(self, cell: Cell) -> None:
        """Moves the run's bar."""
        self._bars.advance(self._all)

    def elsewhere(self, cell: Cell) -> None:
        """Moves the run's bar."""
        self._bars.advance(self._all)

    def waiting(self, count: int) -> None:
        """Says why nothing moves."""
        self._console.print(_waiting(count), markup=False, highlight=False)

    def at_work(self, workers: Sequence[AtWork]) -> None:
        """One bar for the cells of all workers; it names the first few."""
        known = [worker for worker in workers if worker.total]
        self._bars.update(
            self._one,
            description=f"{len(workers)} at work"[:60],
            completed=sum(worker.done for worker in known),
            total=sum(worker.total for worker in known) or None,
            rate=_few(workers, 2),
        )

    def worker_lost(self, reason: str) -> None:
        """Says so."""
        self._console.print(f"worker lost: {reason}", markup=False, emoji=False, highlight=False)

    def unseated(self, lacking: int, workers: int) -> None:
        """Says so."""
        self._console.print(_unseated(lacking, workers), markup=False, highlight=False)

    def stop(self) -> None:
        """Removes the bars."""
        self._bars.stop()


class PlainWatcher(Watcher):
    """A line when a cell is done, and one now and then inside a long cell."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._todo = self._gone = 0
        self._began = self._said = time.monotonic()
        self._title = ""
        self._rate = _Rate()

    def begin(self, todo: int, total: int) -> None:
        """Says how much there is to do."""
        self._todo = todo
        self._say(f"{total} cells, {total - todo} already in the store")

    def cell(self, cell: Cell, number: int) -> None:
        """Remembers the current cell."""
        self._title, self._rate = cell.title, _Rate()

    def step(self, done: int, total: int, what: str) -> None:
        """A line now and then."""
        if time.monotonic() - self._said > _PLAIN_EVERY_S:
            self._say(
                f"  [{self._gone + 1}/{self._todo}] {self._title}: {what} {done}/{total} {self._rate(done)}"
            )

    def done(self, cell: Cell, seconds: float) -> None:
        """A line per cell, with an estimate of what is left."""
        self._gone += 1
        left = (time.monotonic() - self._began) / self._gone * (self._todo - self._gone)
        self._say(
            f"[{self._gone}/{self._todo}] {cell.title}  {seconds:.1f} s, about {left:.0f} s left"
        )

    def failed(self, cell: Cell, error: BaseException) -> None:
        """A line."""
        self._gone += 1
        self._say(
            f"[{self._gone}/{self._todo}] FAILED {cell.title}: {type(error).__name__}: {error}"
        )

    def blocked(self, cell: Cell) -> None:
        """A line."""
        self._gone += 1
        self._say(f"[{self._gone}/{self._todo}] blocked {cell.title}")

    def elsewhere(self, cell: Cell) -> None:
        """A line."""
        self._gone += 1
        self._say(f"[{self._gone}/{self._todo}] {cell.title}  computed by another process")

    def waiting(self, count: int) -> None:
        """A line."""
        self._say(_waiting(count))

    def at_work(self, workers: Sequence[AtWork]) -> None:
        """A line now and then."""
        if time.monotonic() - self._said > _PLAIN_EVERY_S:
            told = f"{len(workers)} at work: {_few(workers, 4)}" if workers else "workers begin"
            self._say(f"  [{self._gone}/{self._todo}] {told}")

    def worker_lost(self, reason: str) -> None:
        """A line."""
        self._say(f"worker lost: {reason}")

    def unseated(self, lacking: int, workers: int) -> None:
        """A line."""
        self._say(_unseated(lacking, workers))

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self._console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Nothing to remove."""


def _waiting(count: int) -> str:
    return f"waiting for {count} cells that other processes compute, or that depend on theirs"


def _unseated(lacking: int, workers: int) -> str:
    return f"{lacking} of {workers} workers find no place in the cluster yet; they begin when there is one"


def _few(workers: Sequence[AtWork], most: int) -> str:
    """The cells of the first few workers."""
    told = [f"{w.title} {w.done}/{w.total}" if w.total else w.title for w in workers[:most]]
    more = f" and {len(workers) - most} more" if len(workers) > most else ""
    return "; ".join(told) + more


def watcher_for(console: Console) -> LiveWatcher | PlainWatcher:
    """The live one on a terminal, the plain one elsewhere."""
    return LiveWatcher(console) if console.is_terminal else PlainWatcher(console)
