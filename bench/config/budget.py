"""How much a suite asks for, and a limit beyond which it is a slip of the pen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.core.errors import UsageError

if TYPE_CHECKING:
    from bench.config.suite import Suite
    from bench.interfaces import Attack, Concept, Erasure

__all__ = ["MOST_CELLS", "MOST_CHARACTERS", "MOST_IMAGES", "MOST_PROMPTS", "Laid", "check_budget"]

MOST_IMAGES: Final = 100_000_000
"""Images of a suite, at most: some three years of one large GPU."""

MOST_CELLS: Final = 120_000
"""Cells of a suite, at most: sixteen times the largest that is shipped, planned within half a minute and 1 GB."""

MOST_PROMPTS: Final = 500_000
"""Prompts of a plan, at most: goals of each attack on each concept, and utility prompts of each concept."""

MOST_CHARACTERS: Final = 500_000_000
"""Characters of the prompts of all searches together, at most: each is in the digest of its search."""


@dataclass(slots=True)
class Laid:
    """Counts what a plan has laid out so far; it refuses what would take minutes and gigabytes.

    Attributes:
        edits: Of each concept: so often is each goal searched.
    """

    edits: int
    _prompts: int = field(default=0, init=False)
    _characters: int = field(default=0, init=False)

    def searches(self, prompts: Sequence[str]) -> None:
        """Counts the goals of an attack on a concept.

        Raises:
            UsageError: they are more than :data:`MOST_PROMPTS` or :data:`MOST_CHARACTERS` together.
        """
        self.prompts(len(prompts))
        self._characters += self.edits * sum(map(len, prompts))
        _at_most(self._characters, MOST_CHARACTERS, "characters in the prompts of its searches")

    def prompts(self, count: int) -> None:
        """Counts prompts.

        Raises:
            UsageError: they are more than :data:`MOST_PROMPTS` together.
        """
        self._prompts += count
        _at_most(self._prompts, MOST_PROMPTS, "prompts, counted for each attack and concept")


@dataclass(frozen=True, slots=True)
class _Work:
    """Counts what is sampled, from the size of a suite alone; concepts with few prompts ask for less.

    Attributes:
        cells: Edits, searches, trials, utility and their scores.
        images: That judges, metrics and attacks look at.
    """

    cells: int
    images: int


def check_budget(
    suite: Suite,
    methods: Sequence[Erasure],
    attacks: Sequence[Attack],
    concepts: Iterable[Concept],
    goals: Mapping[str, int],
    *,
    captions: int = 0,
) -> None:
    """Refuses work that nobody means, before it is laid out.

    Args:
        suite: Gives seeds, repeats, groups and utility.
        methods: That are planned.
        attacks: That are planned.
        concepts: That are planned.
        goals: Prompts of each attack per concept, by its label.
        captions: Utility prompts of a file, per concept.

    Raises:
        UsageError: more than :data:`MOST_IMAGES` images or :data:`MOST_CELLS` cells; it says how many.
    """
    work = _work(suite, methods, attacks, len(list(concepts)), goals, captions)
    for count, most, what in (
        (work.cells, MOST_CELLS, "cells"),
        (work.images, MOST_IMAGES, "images"),
    ):
        _at_most(count, most, what)


def _at_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise UsageError(
            f"expected a suite of at most {most:,} {what}, got {count:,}; lower goals, seeds, repeats, the "
            "attacks' tries or the utility prompts, or split the suite"
        )


def _work(
    suite: Suite,
    methods: Sequence[Erasure],
    attacks: Sequence[Attack],
    concepts: int,
    goals: Mapping[str, int],
    captions: int,
) -> _Work:
    sizes = len(suite.group_sizes)
    edits = suite.repeats * sum(1 if method.control else sizes for method in methods)
    images = cells = 0
    moved = {attack.label for attack in suite.transfer}
    for attack in attacks:
        tried = goals[attack.label]
        trials = edits * (len(methods) if attack.label in moved else 1)
        cells += edits + trials * (1 + len(suite.judges))
        images += tried * (edits * attack.looks() + trials * attack.images_per_find(suite.seeds))
    utility = suite.utility.neighbours + suite.utility.others + captions
    return _Work(
        cells=concepts * (cells + (2 + len(suite.metrics)) * edits + 1),
        images=concepts * (images + utility * (edits + 1)),
    )
