"""Cuts a suite to its kinds of cells: each method, attack, judge and metric once, at the smallest budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from typing import Any, Final

from bench.config.suite import Suite
from bench.config.suite_file import Entry, SuiteFile
from bench.core.spec import Spec
from bench.interfaces import registry
from bench.run.planning.narrowing import Only

__all__ = ["LIMIT", "Cut", "cut"]

LIMIT: Final = 2
"""Utility prompts of a file, at most: a distance of two sets needs two images."""
_STEPS: Final = 2


@dataclass(frozen=True, slots=True)
class Cut:
    """A suite that was cut.

    Attributes:
        file: What is left.
        stands_for: By the label of a method or attack that is left, the labels in the whole suite.
        only: The patterns of ``--only``, as they name what is left.
    """

    file: SuiteFile
    only: tuple[str, ...]
    stands_for: Mapping[str, tuple[str, ...]]


def cut(whole: Suite, *, only: Sequence[str], tiny: bool) -> Cut:
    """The suite with one group of concepts, one goal, one seed and one repeat, each plug-in at its ``quick`` fields.

    Args:
        whole: With a base and networks that are here.
        only: Glob patterns of methods, attacks and concepts, as of a run.
        tiny: Its base is tiny: images have the base's own size.

    Raises:
        UsageError: the smallest fields do not suit a plug-in's others.
    """
    file = whole.file
    methods, of_methods = _least("method", file.methods, whole.methods)
    attacks, of_attacks = _least("attack", file.attacks, whole.attacks)
    names = {old: new for new, olds in of_attacks.items() for old in olds}
    first = max(whole.group_sizes)
    concepts = file.concepts
    if concepts == ("all",) and whole.known_concepts:
        concepts = tuple(concept.text for concept in whole.concepts)
    keep = Only(only, whole)
    both = zip(concepts, whole.concepts, strict=True)
    # Those that are asked for come first: they are what is left.
    concepts = tuple(e for e, _ in sorted(both, key=lambda pair: not keep.concept(pair[1])))
    sampler = {**file.sampler, "steps": min(_STEPS, whole.sampler.steps)}
    if tiny:
        sampler.pop("size", None)
    goals: Any = 1 if whole.goal_file is None else {**_plain(file.goals), "limit": 1}
    changes: dict[str, Any] = {
        "name": f"rehearsal-{file.name}"[:100],
        "protocol": None,
        "concepts": concepts[:first],
        "sampler": sampler,
        "methods": methods,
        "attacks": attacks,
        "transfer": [names[attack.label] for attack in whole.transfer],
        "goals": goals,
        "utility": _utility(whole),
        "seeds": 1,
        "repeats": 1,
        "keep_images": min(file.keep_images, 2),
    }
    left = SuiteFile.of({**file.model_dump(), **changes})
    wanted = {m.label for m in whole.methods if keep.method(m)}
    wanted |= {a.label for a in whole.attacks if keep.attack(a)}
    stands_for = {**of_methods, **of_attacks}
    kept = [escape(new) for new, olds in stands_for.items() if not wanted.isdisjoint(olds)]
    return Cut(left, tuple(kept) if only else (), stands_for)


def _utility(whole: Suite) -> dict[str, Any]:
    """Two prompts, of each group one if there are both; and two captions of a file."""
    asked = whole.utility
    least: dict[str, Any] = {
        "neighbours": min(asked.neighbours, 1),
        "others": min(asked.others, 1 if asked.neighbours else LIMIT),
    }
    if asked.file is not None:
        least["limit"] = LIMIT
    return {**_plain(asked), **least}


def _least(
    kind: registry.PlugPoint, entries: Sequence[Entry], specs: Sequence[Spec]
) -> tuple[list[Entry], dict[str, tuple[str, ...]]]:
    """The entries at their smallest budget, each once, and by the label of each, whom it stands for."""
    kept: list[tuple[Entry, Spec, list[str]]] = []
    for entry, spec in zip(entries, specs, strict=True):
        small = _small(entry, spec)
        built = registry.build(kind, small)
        twin = next((labels for _, other, labels in kept if other == built), None)
        if twin is not None:
            twin.append(spec.label)
        else:
            kept.append((small, built, [spec.label]))
    return [entry for entry, _, _ in kept], {b.label: tuple(labels) for _, b, labels in kept}


def _small(entry: Entry, spec: Spec) -> Entry:
    """An entry with the ``quick`` fields of its class; those that make nothing smaller stay as they are."""
    name, given = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
    fields = dict(given)
    for key, least in type(spec).quick.items():
        now = getattr(spec, key)
        if _number(now) and _number(least) and now <= least:
            continue
        fields[key] = list(least) if isinstance(least, tuple) else least
    if spec.kind == "attack" and "goals" in fields:
        fields["goals"] = 1 if isinstance(fields["goals"], int) else {**fields["goals"], "limit": 1}
    return {name: fields} if fields else name


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(record: Any) -> dict[str, Any]:
    """The fields of a record that somebody set."""
    return dict(record.model_dump(exclude_unset=True))
