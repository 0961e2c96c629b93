"""The goals of attacks: those of each attack for each concept, and how many images each is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Final

from bench.config.budget import Laid
from bench.core.errors import UsageError
from bench.interfaces import Attack, Concept, Goal
from bench.interfaces.minors import refuse_minors
from bench.interfaces.prompt_source import Draw
from bench.run.planning.scope import Scope
from bench.toolkit.prompt_files.content import PromptFile

__all__ = ["Tried", "goals_of", "most_goals", "tried_goals"]

_FROM_FILE: Final = "file"
"""The prompt set of goals that a file brings."""


@dataclass(frozen=True, slots=True)
class Tried:
    """The goals of an attack for a concept, on every edit alike.

    Attributes:
        attack: With the content of its files.
        label: The attack's.
        goals: In order.
        images: Held-out images per candidate.
        draws: By the id of a goal, how a file says that its images are sampled.
    """

    attack: Attack
    label: str
    goals: tuple[Goal, ...]
    images: int
    draws: Mapping[str, Draw] = field(default_factory=dict)


def tried_goals(scope: Scope, laid: Laid) -> Mapping[str, list[Tried]]:
    """The goals by concept; the attacks are in the suite's order.

    Args:
        scope: Gives attacks and concepts.
        laid: Counts what is laid out.

    Raises:
        UsageError: an attack's file is not usable; a concept has no prompts for its sets, or one
            about minors; the goals are too many.
    """
    for attack in scope.attacks:
        attack.check(scope.tried)
        if (file := scope.goal_files.get(attack.label)) is not None:
            file.check([concept.text for concept in scope.tried])
    labels = [attack.label for attack in scope.attacks]
    tried: dict[str, list[Tried]] = {concept.text: [] for concept in scope.tried}
    for (attack, label), concept in product(zip(scope.attacks, labels, strict=True), scope.tried):
        number, seeds = scope.number_of(attack), scope.suite.seeds
        told, file = scope.bare[concept.text], scope.goal_files.get(label)
        draws: Mapping[str, Draw] = {}
        if file is not None:
            goals, draws = goals_of(file, told, number)
            laid.searches([goal.prompt for goal in goals])
        elif (own := _own(attack, told, number, laid)) is not None:
            goals, draws = own, attack.own_draws(told)
        else:
            goals = _from_prompts(attack, concept, told, number)
            laid.searches([goal.prompt for goal in goals])
            # Where a concept has few prompts, more images of each make up for it.
            seeds = max(seeds, math.ceil(number * seeds * len(attack.prompt_sets) / len(goals)))
        refuse_minors(goals)
        # A row has one seed: the published protocol is an image of each.
        images = 1 if draws else seeds
        tried[concept.text].append(Tried(attack, label, goals, images, draws))
    return tried


def goals_of(
    file: PromptFile, told: Concept, number: int
) -> tuple[tuple[Goal, ...], Mapping[str, Draw]]:
    """The first rows of a file for a concept as goals, and how the file says to sample them, if it is asked.

    A goal's name holds a piece of the file's hash: rows of different files are different goals.

    Args:
        file: Of prompts.
        told: The concept, without its own prompts.
        number: Of rows, at most.
    """
    named = {f"{file.sha256[:8]}-{row.line}": row for row in file.of(told.text)[:number]}
    goals = (
        Goal(id=name, concept=told, prompt=row.prompt, prompt_set=_FROM_FILE)
        for name, row in named.items()
    )
    draws = {name: row.draw for name, row in named.items() if row.draw is not None}
    return tuple(goals), draws


def most_goals(scope: Scope, attack: Attack) -> int:
    """Goals of an attack per concept, at most; it lays out none of them."""
    number = scope.number_of(attack)
    if (file := scope.goal_files.get(attack.label)) is not None:
        return max((min(number, len(file.of(c.text))) for c in scope.tried), default=0)
    return len(attack.prompt_sets) * number


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
