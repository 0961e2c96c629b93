"""Drops the images that every judge and metric of a plan has seen, where the suite keeps thumbnails only."""

from __future__ import annotations

from collections.abc import Iterable

from bench.run.cells import Cell, ScoreCell
from bench.run.payload import PAYLOAD
from bench.run.store import Store

__all__ = ["Retention"]

_LOOKED_AT = ("sample", "reference")


class Retention:
    """Counts for each cell's images the scores of the plan that still need them.

    What is dropped leaves its cell, scores and thumbnails as they are. A judge that is added later
    has the images sampled again.

    Args:
        store: Where the images lie.
        cells: Of the plan.
        todo: Those of them that are not in the store yet.
    """

    def __init__(self, store: Store, cells: Iterable[Cell], todo: Iterable[Cell]) -> None:
        self._store = store
        self._left: dict[str, set[str]] = {}
        open_ = {cell.digest for cell in todo}
        for cell in cells:
            if isinstance(cell, ScoreCell):
                for digest in _seen(cell):
                    left = self._left.setdefault(digest, set())
                    if cell.digest in open_:
                        left.add(cell.digest)
        for digest, left in self._left.items():
            if not left:
                store.remove(PAYLOAD, digest)

    def done(self, cell: Cell) -> None:
        """A cell is in the store: images that were kept for it alone go."""
        if isinstance(cell, ScoreCell):
            for digest in _seen(cell):
                left = self._left[digest]
                left.discard(cell.digest)
                if not left:
                    self._store.remove(PAYLOAD, digest)


def _seen(cell: Cell) -> list[str]:
    return [cell.parents[role] for role in _LOOKED_AT if role in cell.parents]
