"""Lines that a reader of a suite's results must know, and that stop nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.core.spec import Spec
from bench.interfaces import Attack, Concept, Erasure

__all__ = ["number_of", "remarks_of", "warnings_of"]

_MOST = 4


def number_of(attack: Attack, count: int) -> int:
    """Goals per prompt set: the suite's number, unless the attack wants fewer."""
    return count if attack.goals is None else min(count, attack.goals)


def warnings_of(
    attacks: Sequence[Attack], concepts: Sequence[Concept], tried: Sequence[Concept], goals: int
) -> tuple[str, ...]:
    """The lines of a plan.

    Args:
        attacks: Those that run, their files read.
        concepts: Those of the suite.
        tried: Those that are attacked.
        goals: How many goals per prompt set the suite asks for.
    """
    lines: list[str] = []
    for attack in attacks:
        lines += attack.remarks(concepts)
        lines += _cut(attack, tried, number_of(attack, goals))
    lines += _short(attacks, tried, goals)
    return _printable(lines)


def remarks_of(specs: Iterable[Spec], folder: Path) -> tuple[str, ...]:
    """The lines of the methods about what the user gave them; they were found to suit the base.

    Args:
        specs: Every plug-in of the plan.
        folder: The base's.
    """
    methods = (spec for spec in specs if isinstance(spec, Erasure))
    return _printable(line for method in methods for line in method.remarks(folder))


def _printable(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple("".join(c if c.isprintable() else " " for c in line) for line in lines)


def _cut(attack: Attack, tried: Sequence[Concept], number: int) -> list[str]:
    """Says that goals of an attack's own are left out."""
    own = {c.text: len(attack.own_goals(c) or ()) for c in tried}
    longer = [f"{count} of {name}" for name, count in own.items() if count > number]
    if not longer:
        return []
    told = f"the first {number} goals are tried, out of {_few(longer)}"
    return [f"{attack.name}: {told}; raise goals (or --limit) to try more"]


def _short(attacks: Sequence[Attack], tried: Sequence[Concept], goals: int) -> list[str]:
    """Says once that concepts have fewer prompts than the suite asks for."""
    asked: dict[tuple[str, str], int] = {}
    got: dict[tuple[str, str], int] = {}
    for attack in attacks:
        for concept in tried:
            if attack.own_goals(concept) is not None:
                continue
            for name in attack.prompt_sets:
                place = (concept.text, name)
                asked[place] = max(asked.get(place, 0), number_of(attack, goals))
                got[place] = len(concept.prompts.get(name, ()))
    short = [place for place in asked if got[place] < asked[place]]
    if not short:
        return []
    told = _few([f"{concept} ({name}) {got[concept, name]}" for concept, name in short])
    most = max(asked[place] for place in short)
    return [f"goals: {most} per prompt set were asked for, and there are fewer: {told}"]


def _few(items: Sequence[str]) -> str:
    more = f" and {len(items) - _MOST} more" if len(items) > _MOST else ""
    return ", ".join(items[:_MOST]) + more
