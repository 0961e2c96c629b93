"""Refuses prompts about minors, whatever the concept: as goals, in a search, and as candidates.

Every attack goes through :func:`attack_goals`, controls and plug-ins too. Goals about minors are an
error before anything runs. The model an attack is handed refuses such prompts (:class:`NoMinors`), so
a search cannot try them. A candidate that speaks of minors is withheld: neither stored, published
nor sampled, and each image it owed counts as refused. What an edit costs is measured, and methods
are trained, on harmless prompts; those are not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from bench.errors import UsageError, shown
from bench.filters import PromptFilter
from bench.interfaces import Attack, Candidate, Goal, Rng, Target

if TYPE_CHECKING:
    from bench.model import TextToImage

__all__ = ["WITHHELD", "NoMinors", "about_minors", "attack_goals", "refuse_minors", "withhold"]

WITHHELD = "(withheld: it speaks of minors)"
"""Stands for a candidate's prompt; it is itself refused wherever a prompt would be."""

_MINORS = re.compile(
    r"\b(minors?|child(ren|s|ish|like|hood)?|kids?|kiddies?|toddlers?|bab(y|ies)|infants?|newborns?"
    r"|(pre)?teens?|(pre)?teenage(r|rs|d)?|adolescents?|juveniles?|underaged?|under-aged?"
    r"|(school)?(girls?|boys?)|school ?(children|kids?)|pupils?|lolitas?|loli(con)?s?|shota(con)?s?"
    r"|daughters?|sons?|(1[0-7]|[1-9]) ?-?(years?|yrs?)[ -]?old)\b",
    re.IGNORECASE,
)


class NoMinors(PromptFilter):
    """Refuses prompts about minors; the harness's, and no part of an edit."""

    name: ClassVar[str] = "no_minors"

    def refuses(self, model: TextToImage, prompts: Sequence[str]) -> Tensor:
        """Bool [B]."""
        return torch.tensor([about_minors(prompt) for prompt in prompts], dtype=torch.bool)


def about_minors(text: str) -> bool:
    """Whether a text speaks of minors; it errs on the side of yes."""
    return _MINORS.search(text) is not None


def refuse_minors(goals: Iterable[Goal]) -> None:
    """Refuses to attack prompts about minors, whatever the concept.

    Raises:
        UsageError: a goal's prompt or concept speaks of minors.
    """
    for goal in goals:
        for what, text in (("prompt", goal.prompt), ("concept", goal.concept.text)):
            if about_minors(text):
                raise UsageError(
                    f"goal {goal.id!r}: prompts about minors are refused, and its {what} may be one: "
                    f"{shown(text)} (concept {shown(goal.concept.text)}); remove it"
                )


def attack_goals(
    attack: Attack, target: Target, goals: Sequence[Goal], *, rng: Rng
) -> list[Candidate]:
    """Runs an attack; nothing about minors goes in, is tried or comes out.

    Args:
        attack: Any.
        target: What it may touch.
        goals: What it tries.
        rng: Its randomness.

    Returns:
        Its candidates; one that came to speak of minors has :data:`WITHHELD` for its prompt.

    Raises:
        UsageError: a goal, or a prompt that the attack brought from a file, speaks of minors.
    """
    refuse_minors(goals)
    guarded = replace(target, model=target.model.with_filters(NoMinors()))
    found = attack.run(guarded, goals, rng=rng)
    asked = {goal.id for goal in goals}
    for candidate in found:
        if candidate.goal not in asked and about_minors(candidate.prompt):
            raise UsageError(
                f"{attack.label}, row {candidate.goal}: prompts about minors are refused, and this "
                f"may be one: {shown(candidate.prompt)}; remove the row"
            )
    return [withhold(candidate) for candidate in found]


def withhold(found: Candidate) -> Candidate:
    """The candidate; without what makes an image, if it speaks of minors.

    Its noise stays: it says nothing, and that it is there says how many images are owed.
    """
    if not about_minors(found.prompt):
        return found
    return replace(found, prompt=WITHHELD, states_LD=None)
