"""Says which worker computes which cell next; it knows nothing of how they are reached.

A worker stays with its chain as long as something of it can be computed. Then it takes the longest
chain that nobody is at; references come before all, since every chain waits for them. Where no chain
is left, it joins the longest that others are at. So scores move to another worker only when that one
has nothing better to do. As long as there are chains for all, sampling and scoring apart gains nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from bench.run.cells import Cell, ReferenceCell
from bench.run.chains import chain_of, weight

__all__ = ["Rota"]


@dataclass(slots=True, eq=False)
class _Chain:
    first: bool
    weight: float = 0.0
    open: int = 0
    ready: list[int] = field(default_factory=list)  # a heap of places in the plan
    workers: set[Hashable] = field(default_factory=set)


class Rota:
    """The cells that are still to be computed.

    Args:
        todo: Parents first. A parent that is not among them is in the store.
    """

    def __init__(self, todo: Sequence[Cell]) -> None:
        self._cells = todo
        self._place = {cell.digest: place for place, cell in enumerate(todo)}
        self._waits = [0] * len(todo)
        self._children: dict[int, list[int]] = {}
        self._open = set(range(len(todo)))
        self._later: list[tuple[float, int]] = []
        chains: dict[str, _Chain] = {}
        self._chain = [
            chains.setdefault(chain_of(cell), _Chain(isinstance(cell, ReferenceCell)))
            for cell in todo
        ]
        for place, cell in enumerate(todo):
            self._chain[place].weight += weight(cell)
            self._chain[place].open += 1
            parents = {self._place[p] for p in cell.parents.values() if p in self._place}
            self._waits[place] = len(parents)
            for parent in parents:
                self._children.setdefault(parent, []).append(place)
            if not parents:
                self._chain[place].ready.append(place)
        self._chains = sorted(chains.values(), key=lambda chain: (not chain.first, -chain.weight))
        self._at: dict[Hashable, _Chain] = {}

    @property
    def open(self) -> int:
        """How many cells are neither done nor lost."""
        return len(self._open)

    def take(self, worker: Hashable) -> Cell | None:
        """Returns the next cell for a worker; ``None`` while there is none that can be computed."""
        chain = self._at.get(worker)
        if chain is None or not chain.ready:
            self.leave(worker)
            chain = self._next()
            if chain is None:
                return None
            chain.workers.add(worker)
            self._at[worker] = chain
        return self._cells[heapq.heappop(chain.ready)]

    def leave(self, worker: Hashable) -> None:
        """A worker is with no chain any more: it is idle, or gone."""
        if (chain := self._at.pop(worker, None)) is not None:
            chain.workers.discard(worker)

    def done(self, cell: Cell) -> None:
        """A cell is in the store: what waited for it alone can be computed."""
        place = self._close(cell)
        for child in self._children.pop(place, ()):
            self._waits[child] -= 1
            if not self._waits[child] and child in self._open:
                heapq.heappush(self._chain[child].ready, child)

    def lost(self, cell: Cell) -> list[Cell]:
        """A cell has failed; returns those that are blocked by it, in the order of the plan."""
        blocked: set[int] = set()
        places = [self._close(cell)]
        while places:
            for child in self._children.pop(places.pop(), ()):
                if child in self._open:
                    self._close(self._cells[child])
                    blocked.add(child)
                    places.append(child)
        return [self._cells[place] for place in sorted(blocked)]

    def again(self, cell: Cell, at: float = 0.0) -> None:
        """A cell that was taken is to be done after all.

        Args:
            cell: Which.
            at: When, on the clock of :meth:`wake`; 0: at once.
        """
        place = self._place[cell.digest]
        if at > 0:
            heapq.heappush(self._later, (at, place))
        else:
            heapq.heappush(self._chain[place].ready, place)

    def wake(self, now: float) -> float | None:
        """Makes ready whatever was put off until now; returns when the next is due, if any is."""
        while self._later and self._later[0][0] <= now:
            _, place = heapq.heappop(self._later)
            if place in self._open:
                heapq.heappush(self._chain[place].ready, place)
        return self._later[0][0] if self._later else None

    @property
    def put_off(self) -> int:
        """How many cells are put off."""
        return len(self._later)

    def _close(self, cell: Cell) -> int:
        place = self._place[cell.digest]
        self._open.discard(place)
        self._chain[place].weight -= weight(cell)
        self._chain[place].open -= 1
        return place

    def _next(self) -> _Chain | None:
        self._chains = [chain for chain in self._chains if chain.open]
        ready = [chain for chain in self._chains if chain.ready]
        free = [chain for chain in ready if not chain.workers]
        return _longest(free) or _longest(ready)


def _longest(chains: Iterable[_Chain]) -> _Chain | None:
    return max(chains, key=lambda chain: (chain.first, chain.weight), default=None)
