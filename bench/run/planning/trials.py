"""Plans trials: what a search found, sampled on its own edit, and as transfers on those of other methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import permutations
from operator import itemgetter
from typing import Any

from bench.core.digest import digest_of_parts
from bench.interfaces.prompt_source import Draw
from bench.run.cells import AttackCell, TrialCell
from bench.run.planning.goals import Tried
from bench.run.planning.scope import Scope, parts_of

__all__ = ["Trials"]


class Trials:
    """The planner of trials."""

    def __init__(self, scope: Scope) -> None:
        self._same = parts_of({"stage": "trial"})
        self._moving = {attack.label for attack in scope.suite.transfer}

    def of(self, search: AttackCell, one: Tried) -> TrialCell:
        """The trial of what a search finds, on its own edit.

        Args:
            search: Its parent.
            one: How many images, and how a file says to sample them.
        """
        what = parts_of({"attack": search.digest, "images": one.images, **_drawn(one.draws)})
        return TrialCell(
            digest=digest_of_parts({**self._same, **what}),
            **search.inherited,
            parents={**search.parents, "attack": search.digest},
            attack=search.attack,
            attack_label=search.attack_label,
            goals=search.goals,
            images=one.images,
            draws=one.draws,
        )

    def transfers(self, trials: Iterable[TrialCell]) -> list[TrialCell]:
        """Trials of what was found on one edit on those of the other methods, same concept and repeat.

        They meet the seeds of the ordinary trial, so a column of the matrix is compared on one draw.

        Args:
            trials: Every ordinary one, those of an edit together.

        Returns:
            Those of an edit together, in the order of the edits.
        """
        edits: dict[str, int] = {}
        alike: dict[tuple[str, ...], list[TrialCell]] = {}
        for trial in trials:
            edits.setdefault(trial.parents["edit"], len(edits))
            if trial.attack_label in self._moving:
                erased = [c.text for c in trial.erased]
                key = (trial.attack_label, trial.concept.text, str(trial.repeat), *erased)
                alike.setdefault(key, []).append(trial)
        made = [
            (edits[target.parents["edit"]], self._transfer(target, found))
            for group in alike.values()
            for target, found in permutations(group, 2)
        ]
        return [trial for _, trial in sorted(made, key=itemgetter(0))]

    def _transfer(self, target: TrialCell, found: TrialCell) -> TrialCell:
        parents = {"edit": target.parents["edit"], "attack": found.parents["attack"]}
        what = parts_of({**parents, "images": target.images, **_drawn(target.draws)})
        return replace(
            target,
            digest=digest_of_parts({**self._same, **what}),
            parents=parents,
            source=found.method,
            source_label=found.source_label,
        )


def _drawn(draws: Mapping[str, Draw]) -> dict[str, Any]:
    """How a file says to sample, for the digest; nothing where the suite says it."""
    return {"draws": {goal: draw.as_json() for goal, draw in draws.items()}} if draws else {}
