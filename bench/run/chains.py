"""Chains: an edit and all cells on it; they stay together, whoever computes them.

Whoever has loaded an edit computes its searches, trials and scores without loading it again. A
reference is a chain of its own. A transfer belongs to the edit that it is tried on.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.core.errors import UsageError, shown
from bench.run.cells import (
    AttackCell,
    Cell,
    ComparedCell,
    EditCell,
    JudgedCell,
    MeasuredCell,
    ReferenceCell,
    TrialCell,
    UtilityCell,
)

__all__ = ["Chain", "Share", "chain_of", "chains_of", "late", "share_of", "weight"]

_SHARE = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")
_EDIT, _SEARCH, _LOOK = 40.0, 2.0, 0.01


@dataclass(frozen=True, slots=True)
class Chain:
    """Cells that stay together.

    Attributes:
        key: The digest of their edit; of a reference, its own.
        cells: In the order of the plan.
        weight: About how many images they cost.
    """

    key: str
    cells: tuple[Cell, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Share:
    """One share of a plan, of several that are computed apart.

    Attributes:
        number: Which, from 1.
        of: How many there are.
    """

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> Share:
        """The share that ``2/8`` names.

        Raises:
            UsageError: it names none.
        """
        match = _SHARE.fullmatch(text)
        if match is None or int(match[1]) > int(match[2]):
            raise UsageError(
                f"--shard: expected I/N with 1 <= I <= N, such as 2/8, got {shown(text)}"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        """As it was asked for."""
        return f"{self.number}/{self.of}"


def chain_of(cell: Cell) -> str:
    """Returns the key of the chain that a cell belongs to."""
    match cell:
        case JudgedCell():
            return cell.trial.parents["edit"]
        case MeasuredCell() | ComparedCell():
            return cell.utility.parents["edit"]
    return cell.parents.get("edit", cell.digest)


def weight(cell: Cell) -> float:
    """Returns about how many images a cell costs: enough to put long chains first.

    The numbers for an edit, a search and a look are those of the miniature, roughly. They decide an
    order, and no result.
    """
    match cell:
        case EditCell():
            return _EDIT
        case ReferenceCell() | UtilityCell():
            return float(len(cell.prompts))
        case AttackCell():
            return len(cell.goals) * (_SEARCH + cell.attack.looks())
        case TrialCell():
            return float(len(cell.goals) * cell.images)
    return _LOOK


def chains_of(cells: Iterable[Cell]) -> list[Chain]:
    """Returns the chains of cells, in the order of their first cells."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(chain_of(cell), []).append(cell)
    return [Chain(key, tuple(own), sum(map(weight, own))) for key, own in found.items()]


def share_of(cells: Sequence[Cell], share: Share) -> tuple[list[Cell], list[Cell]]:
    """Returns the cells of a share, and those of other shares that they need.

    The heaviest chain that is left goes to the lightest share. That depends on the plan alone, so
    jobs that begin at different times agree. No cell is in two shares, and every cell is in one.

    Args:
        cells: Of the whole plan, each once, parents first.
        share: Which.
    """
    heaviest = sorted(enumerate(chains_of(cells)), key=lambda one: (-one[1].weight, one[0]))
    lightest = [(0.0, number) for number in range(1, share.of + 1)]
    own: set[str] = set()
    for _, chain in heaviest:
        load, number = heapq.heappop(lightest)
        heapq.heappush(lightest, (load + chain.weight, number))
        if number == share.number:
            own |= {cell.digest for cell in chain.cells}
    needed = _ancestors(cells, own) - own
    return (
        [cell for cell in cells if cell.digest in own],
        [cell for cell in cells if cell.digest in needed],
    )


def late(own: Sequence[Cell], needed: Sequence[Cell], lacking: Sequence[Cell]) -> list[Cell]:
    """Returns what a share has to see done, parents first, what other shares are likely to do last.

    Args:
        own: Its cells.
        needed: Those of other shares that they need. References come early: they are short.
        lacking: What the store lacks, in the order of the plan.
    """
    mine = {cell.digest for cell in own}
    early = mine | {cell.digest for cell in needed if isinstance(cell, ReferenceCell)}
    wanted = mine | {cell.digest for cell in needed}
    put_off = {cell.digest for cell in needed} - early
    for cell in own:
        if not put_off.isdisjoint(cell.parents.values()):
            put_off.add(cell.digest)
    todo = [cell for cell in lacking if cell.digest in wanted]
    return [c for c in todo if c.digest not in put_off] + [c for c in todo if c.digest in put_off]


def _ancestors(cells: Sequence[Cell], of: set[str]) -> set[str]:
    found = set(of)
    for cell in reversed(cells):  # parents come first in a plan
        if cell.digest in found:
            found.update(cell.parents.values())
    return found
