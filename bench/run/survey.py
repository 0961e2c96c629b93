"""Holds a plan against a store: what is there, what lacks, and what of it is this run's."""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.digest import DamagedError
from bench.run.cells import Cell, ScoreCell
from bench.run.chains import Share, late, share_of
from bench.run.contents import check
from bench.run.plan import Plan
from bench.run.retention import Retention
from bench.run.store import Entry, Store

__all__ = ["Survey", "left", "sound", "survey"]


@dataclass(frozen=True, slots=True)
class Survey:
    """The cells of a plan, held against a store.

    Attributes:
        unique: Each cell once.
        lacking: Those that the store does not hold.
        todo: Those of them that this run computes, or waits for.
    """

    unique: list[Cell]
    lacking: list[Cell]
    todo: list[Cell]

    @property
    def samples(self) -> bool:
        """Whether the base is asked for anything: scores ask nothing of it."""
        return any(not isinstance(cell, ScoreCell) for cell in self.todo)

    def retention(self, plan: Plan, store: Store) -> Retention | None:
        """Who drops the images that every score of the plan has seen, if the suite says so."""
        return (
            Retention(store, self.unique, self.lacking)
            if plan.suite.images == "thumbnails"
            else None
        )


def survey(plan: Plan, store: Store, share: Share | None = None) -> Survey:
    """Looks for every cell of a plan.

    Args:
        plan: What to compute.
        store: Where results are; what is damaged in it is set aside.
        share: Of several that are computed apart; ``None``: the whole. What it needs of other shares
            is among its cells, and comes last where it is more than a reference.
    """
    unique = list({(c.kind, c.digest): c for c in plan.cells}.values())
    lacking = [c for c in unique if sound(store, c) is None]
    if share is None:
        return Survey(unique, lacking, lacking)
    return Survey(unique, lacking, late(*share_of(unique, share), lacking))


def left(plan: Plan, store: Store) -> list[Cell]:
    """Returns the cells that are neither in the store, nor failed, nor blocked by one that has failed."""
    lost: set[str] = set()
    found = []
    for cell in survey(plan, store).lacking:
        if not lost.isdisjoint(cell.parents.values()) or store.failures(cell.kind, cell.digest):
            lost.add(cell.digest)
        else:
            found.append(cell)
    return found


def sound(store: Store, cell: Cell) -> Entry | None:
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
