"""The goals of attacks: those of each attack for each concept, and how many images each is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from bench.config.budget import Laid
from bench.core.errors import UsageError
from bench.interfaces import Attack, Concept, Goal
from bench.interfaces.minors import refuse_minors
from bench.run.planning.scope import Scope
from bench.run.remarks import number_of

__all__ = ["Tried", "tried_goals"]


@dataclass(frozen=True, slots=True)
class Tried:
    """The goals of an attack for a concept, on every edit alike.

    Attributes:
        attack: With the content of its files.
        label: The attack's.
        goals: In order.
        images: Held-out images per candidate.
    """

    attack: Attack
    label: str
    goals: tuple[Goal, ...]
    images: int


def tried_goals(scope: Scope, laid: Laid) -> Mapping[str, list[Tried]]:
    """The goals by concept; the attacks are in the suite's order.

    Args:
        scope: Gives attacks and concepts.
        laid: Counts what is laid out.

    Raises:
        UsageError: a file that an attack was given is not usable; a concept has no prompts for its
            sets, or one about minors; the goals are too many.
    """
    for attack in scope.attacks:
        attack.check(scope.tried)
    labels = [attack.label for attack in scope.attacks]
    tried: dict[str, list[Tried]] = {concept.text: [] for concept in scope.tried}
    for (attack, label), concept in product(zip(scope.attacks, labels, strict=True), scope.tried):
        number, seeds = number_of(attack, scope.goals), scope.suite.seeds
        goals = _own(attack, scope.bare[concept.text], number, laid)
        if goals is None:
            goals = _from_prompts(attack, concept, scope.bare[concept.text], number)
            laid.searches([goal.prompt for goal in goals])
            # Where a concept has few prompts, more images of each make up for it.
            seeds = max(seeds, math.ceil(number * seeds * len(attack.prompt_sets) / len(goals)))
        refuse_minors(goals)
        tried[concept.text].append(Tried(attack, label, goals, seeds))
    return tried


def _own(attack: Attack, told: Concept, number: int, laid: Laid) -> tuple[Goal, ...] | None:
    """The goals that an attack brings itself; ``None``: it takes the concept's prompts."""
    if (own := attack.own_goals(told)) is None:
        return None
    if not own:
        raise UsageError(f"attack {attack.name} brings no goal for {told.text!r}")
    first = own[:number]
    laid.prompts(len(own) - len(first))  # they are read as well
    laid.searches([goal.prompt for goal in first])
    return first


def _from_prompts(attack: Attack, concept: Concept, told: Concept, number: int) -> tuple[Goal, ...]:
    """Goals from the concept's own prompts, which the goals themselves do not tell."""
    missing = [name for name in attack.prompt_sets if not concept.prompts.get(name)]
    if missing:
        have = ", ".join(concept.prompts) or "none"
        raise UsageError(
            f"concept {concept.text!r} has no prompts in the set {missing[0]!r} that attack {attack.name} needs "
            f"(it has: {have}); add them, or set the attack's prompt_sets"
        )
    return tuple(
        Goal(id=f"{name}-{i:03d}", concept=told, prompt=prompt, prompt_set=name)
        for name in attack.prompt_sets
        for i, prompt in enumerate(concept.prompts[name][:number])
    )
