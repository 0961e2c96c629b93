"""Lines that a reader of a suite's results must know, and that stop nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.core.spec import Spec
from bench.interfaces import Attack, Erasure
from bench.run.planning.captions import captions_told
from bench.run.planning.scope import Scope
from bench.toolkit.prompt_files.content import PromptFile
from bench.toolkit.prompt_files.telling import remarks_of

__all__ = ["method_remarks", "warnings_of"]

_MOST = 4


def warnings_of(scope: Scope) -> tuple[str, ...]:
    """The lines of a plan.

    Args:
        scope: What is planned, its files read.
    """
    concepts = scope.suite.concepts
    lines = [line for attack in scope.attacks for line in attack.remarks(concepts)]
    lines += _cut(scope)
    lines += _files(scope, [concept.text for concept in concepts])
    lines += _short([a for a in scope.attacks if a.label not in scope.goal_files], scope)
    return _printable(lines)


def method_remarks(specs: Iterable[Spec], folder: Path) -> tuple[str, ...]:
    """The lines of the methods about what the user gave them; they were found to suit the base.

    Args:
        specs: Every plug-in of the plan.
        folder: The base's.
    """
    methods = (spec for spec in specs if isinstance(spec, Erasure))
    return _printable(line for method in methods for line in method.remarks(folder))


def _printable(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple("".join(c if c.isprintable() else " " for c in line) for line in lines)


def _files(scope: Scope, names: Sequence[str]) -> Iterator[str]:
    """Says once of each file of goals, and of that of captions, what is used of it."""
    users: dict[int, list[str]] = {}
    files: dict[int, PromptFile] = {}
    for attack in scope.attacks:
        if (file := scope.goal_files.get(attack.label)) is not None:
            files[id(file)] = file
            users.setdefault(id(file), []).append(attack.name)
    for key, file in files.items():
        told = f"goals of {', '.join(dict.fromkeys(users[key]))}, {file.path.name}"
        yield from (f"{told}: {line}" for line in remarks_of(file, names))
    if (captions := scope.captions) is not None:
        yield from (
            f"utility, {captions.path.name}: {line}" for line in captions_told(scope, captions)
        )


def _cut(scope: Scope) -> list[str]:
    """Says that goals of files are left out: once for the attacks of which the same is to be said."""
    users: dict[str, list[str]] = {}
    for attack in scope.attacks:
        if told := _left_out(attack, scope):
            users.setdefault(told, []).append(attack.name)
    return [f"{', '.join(dict.fromkeys(names))}: {told}" for told, names in users.items()]


def _left_out(attack: Attack, scope: Scope) -> str:
    """The goals of an attack's own that are not tried; empty: none."""
    number, file = scope.number_of(attack), scope.goal_files.get(attack.label)
    own = {
        c.text: len((attack.own_goals(c) or ()) if file is None else file.of(c.text))
        for c in scope.tried
    }
    longer = [f"{count} of {name}" for name, count in own.items() if count > number]
    if not longer:
        return ""
    by_file = attack.goal_file or (file is not None and attack.goals is None)
    key = "the file's limit" if by_file else "goals"
    told = f"the first {number} goals are tried, out of {_few(longer)}"
    return f"{told}; raise {key} (or --limit) to try more"


def _short(attacks: Sequence[Attack], scope: Scope) -> list[str]:
    """Says once that concepts have fewer prompts than the suite asks for."""
    tried = scope.tried
    asked: dict[tuple[str, str], int] = {}
    got: dict[tuple[str, str], int] = {}
    for attack in attacks:
        for concept in tried:
            if attack.own_goals(concept) is not None:
                continue
            for name in attack.prompt_sets:
                place = (concept.text, name)
                asked[place] = max(asked.get(place, 0), scope.number_of(attack))
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
