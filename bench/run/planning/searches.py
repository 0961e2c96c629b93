"""Plans attacks: what each of them searches for on an edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.core.digest import canonical_json, digest_of_parts
from bench.interfaces import Concept
from bench.run.cells import AttackCell, EditCell
from bench.run.planning.goals import Tried
from bench.run.planning.scope import Scope, parts_of

__all__ = ["Searches"]


class Searches:
    """The planner of attacks. What a search shares with those on other edits is worked out once."""

    def __init__(self, scope: Scope, tried: Mapping[str, Sequence[Tried]]) -> None:
        same = {**scope.shared, **parts_of({
            "stage": "attack", "surrogate": scope.suite.surrogate.identity(),
            "bar": scope.suite.surrogate.threshold,  # a search may stop by it
        })}  # fmt: skip
        attacks = {attack.label: canonical_json(attack.identity()) for attack in scope.attacks}
        self._tried = {
            text: [
                (one, {
                    **same,
                    "attack": attacks[one.label],
                    "goals": canonical_json([[g.id, g.prompt] for g in one.goals]),
                    "concept": concept,
                })
                for one in tried[text]
            ]
            for text in tried
            for concept in [canonical_json(scope.bare[text].identity())]
        }  # fmt: skip

    def on(self, edit: EditCell, concept: Concept) -> Iterator[tuple[AttackCell, Tried]]:
        """The searches on an edit for one of its concepts, and what each tries."""
        parents = {"edit": edit.digest}
        named = canonical_json(edit.digest)
        for one, parts in self._tried[concept.text]:
            yield (
                AttackCell(
                    digest=digest_of_parts({**parts, "edit": named}),
                    **edit.inherited | {"concept": concept},
                    parents=parents,
                    attack=one.attack,
                    attack_label=one.label,
                    goals=one.goals,
                ),
                one,
            )
