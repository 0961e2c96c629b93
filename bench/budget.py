"""How much a suite asks for, and a limit beyond which it is a slip of the pen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.interfaces import Attack, Concept, Erasure
    from bench.suite import Suite

__all__ = ["MOST_CELLS", "MOST_IMAGES", "check_budget"]

MOST_IMAGES: Final = 100_000_000
"""Images of a suite, at most: some three years of one large GPU."""

MOST_CELLS: Final = 20_000
"""Cells of a suite, at most: four times the largest that is shipped, planned in some ten seconds."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What is sampled, from the size of a suite alone; concepts with few prompts ask for less.

    Attributes:
        cells: Edits, searches, trials and utility.
        images: That judges, metrics and attacks look at.
    """

    cells: int
    images: int


def check_budget(
    suite: Suite,
    methods: Sequence[Erasure],
    attacks: Sequence[Attack],
    concepts: Iterable[Concept],
    goals: int,
) -> None:
    """Refuses work that nobody means, before it is laid out.

    Args:
        suite: Gives seeds, repeats, groups and utility.
        methods: That are planned.
        attacks: That are planned.
        concepts: That are planned.
        goals: Prompts per prompt set.

    Raises:
        UsageError: more than :data:`MOST_IMAGES` images or :data:`MOST_CELLS` cells; it says how many.
    """
    work = _work(suite, methods, attacks, len(list(concepts)), goals)
    for count, most, what in (
        (work.cells, MOST_CELLS, "cells"),
        (work.images, MOST_IMAGES, "images"),
    ):
        if count > most:
            raise UsageError(
                f"expected a suite of at most {most:,} {what}, got {count:,}; lower goals, seeds, repeats, the "
                "attacks' tries or the utility prompts, or split the suite"
            )


def _work(
    suite: Suite, methods: Sequence[Erasure], attacks: Sequence[Attack], concepts: int, goals: int
) -> _Work:
    sizes = len(suite.group_sizes())
    edits = suite.repeats * sum(1 if method.control else sizes for method in methods)
    images = cells = 0
    moved = {attack.label for attack in suite.transfer_specs()}
    for attack in attacks:
        tried = len(attack.prompt_sets) * min(goals, attack.goals or goals)
        trials = edits * (len(methods) if attack.label in moved else 1)
        cells += edits + trials
        images += tried * (edits * attack.looks() + trials * suite.seeds)
    utility = suite.utility.neighbours + suite.utility.others
    return _Work(
        cells=concepts * (cells + 2 * edits + 1), images=concepts * (images + utility * (edits + 1))
    )
