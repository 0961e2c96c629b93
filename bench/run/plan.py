"""What a suite computes: cells, each named by a digest of everything that its numbers depend on.

    reference (unedited images of the utility prompts) edit ──> attack ──> trial            edit,
    reference ──> utility        attack (on one edit), edit (of another method) ──> trial: a transfer

A plan is made without computing anything: a cell's digest covers its specification and its parents'
digests.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, permutations, product
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from bench.config.budget import Laid, check_budget
from bench.config.suite import Suite
from bench.core.digest import canonical_json, digest_of, digest_of_parts
from bench.core.errors import UsageError, shown, unknown
from bench.core.spec import Spec, content
from bench.interfaces import (
    Attack,
    Concept,
    Erasure,
    Goal,
    Judge,
    Metric,
    Rng,
    UtilityPrompt,
    bare,
)
from bench.interfaces.minors import refuse_minors
from bench.model.sampler import Sampler
from bench.run.remarks import number_of, warnings_of

__all__ = ["Cell", "Kind", "Plan", "bare", "make_plan"]

Kind = Literal["reference", "edit", "attack", "trial", "utility"]

_FORMAT = 1  # raise when the meaning of cells changes


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to compute.

    Attributes:
        kind: Its stage.
        digest: Of everything its numbers depend on.
        method: The erasure; ``None`` for references.
        concept: What is attacked or measured; of an edit, the first of the erased.
        erased: What the edit erases together.
        suffix: Tells edits of one method apart in tables: how many concepts are erased together, where
            a suite has several such numbers.
        repeat: Index of the independent edit.
        attack: Of attacks and trials.
        source: Of transfers, the method that the candidates were found on; they are tried on
            ``method``.
        goals: Of attacks and trials.
        images: Held-out images a candidate, of trials.
        prompts: (group, prompt) of references and utilities.
        parents: Digests by kind.
    """

    kind: Kind
    digest: str
    concept: Concept
    method: Erasure | None = None
    erased: tuple[Concept, ...] = ()
    suffix: str = ""
    repeat: int = 0
    attack: Attack | None = None
    source: Erasure | None = None
    goals: tuple[Goal, ...] = ()
    images: int = 1
    prompts: tuple[tuple[str, UtilityPrompt], ...] = ()
    parents: dict[str, str] = field(default_factory=dict)

    @property
    def method_label(self) -> str:
        """What tables call the method; empty for references."""
        return self.method.label + self.suffix if self.method else ""

    @property
    def source_label(self) -> str:
        """What tables call the method that the candidates were found on."""
        return self.source.label + self.suffix if self.source else self.method_label

    @property
    def title(self) -> str:
        """For people."""
        parts = [self.method_label or "unedited", self.concept.text]
        if self.attack:
            parts.append(self.attack.label)
        if self.source:
            parts[-1] += f" found on {self.source_label}"
        return f"{self.kind} {' / '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The cells of a suite, parents first, the cells of an edit together; transfers come last.

    Attributes:
        suite: The suite.
        base: Digest of the unedited model.
        cells: What to compute.
        partial: It was cut by ``--only`` or ``--limit``: its results are drafts.
        concepts: Every concept the base knows, by name: utility prompts refer to them.
        suite_digest: Of the suite, with the content of its files as the plan read it.
        warnings: What a reader of the results must know and nobody asked for, a line each.
        folder: The base's pipeline folder, which the plug-ins were found to suit; ``None``: they were
            not asked yet, and a run asks them.
    """

    suite: Suite
    base: str
    cells: tuple[Cell, ...]
    partial: bool
    sampler: Sampler
    judges: tuple[Judge, ...]
    surrogate: Judge
    metrics: tuple[Metric, ...]
    attacks: tuple[Attack, ...]
    concepts: dict[str, Concept]
    suite_digest: str
    warnings: tuple[str, ...] = ()
    folder: Path | None = None

    def attack_name(self, attack: Attack) -> str:
        """What tables call it: its name, or its label where the suite has several of that name."""
        alike = [a for a in self.attacks if a.name == attack.name]
        return attack.name if len(alike) == 1 else attack.label

    @property
    def specs(self) -> tuple[Spec, ...]:
        """Every plug-in that the cells need, once."""
        # The cells share the objects; a digest would be worked out for each of thousands.
        used = [spec for c in self.cells for spec in (c.method, c.attack) if spec is not None]
        once: dict[int, Spec] = {id(spec): spec for spec in used}
        return (*once.values(), *self.judges, self.surrogate, *self.metrics)

    def check_base(self, folder: Path | None) -> None:
        """Refuses a base that a plug-in does not suit.

        Args:
            folder: The base's pipeline folder; ``None`` for one that was not loaded from any.

        Raises:
            UsageError: in one line, with the field to change.
        """
        for spec in self.specs:
            spec.check_base(folder)

    @property
    def rng(self) -> Rng:
        """The root of all random streams of the suite."""
        return Rng(("suite", self.suite.seed))


def make_plan(
    suite: Suite,
    base_digest: str,
    *,
    folder: Path | None = None,
    only: Sequence[str] = (),
    limit: int | None = None,
) -> Plan:
    """Lays out the cells of a suite.

    Args:
        suite: What to evaluate.
        base_digest: Of the unedited model.
        folder: The unedited model's, where it has one: methods may read more there than networks, and
            every plug-in is asked whether it suits.
        only: Glob patterns; a cell stays if one matches its method's, concept's or attack's name.
            Patterns of the same sort widen, of different sorts narrow. A transfer needs both its
            methods.
        limit: At most so many prompts a set, and so many utility prompts a group.

    Raises:
        UsageError: a pattern matches nothing; a limit below 1; a concept has no prompts for an
            attack's sets, or one about minors; a utility prompt asks for an unknown concept; a judge
            cannot see a concept; a file that an attack was given is not usable; a plug-in does not
            suit the base.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected at least 1, got {limit}")
    sampler, judges, metrics = suite.sampler_spec(), suite.judge_specs(), suite.metric_specs()
    surrogate, known = suite.surrogate_spec(), suite.known_concepts()
    wanted = suite.concept_specs()
    known = {**known, **{c.text: c for c in wanted}}
    keep = _Only(only, suite)
    goals = suite.goals if limit is None else min(limit, suite.goals)
    shared = {
        "format": _FORMAT,
        "base": base_digest,
        "seed": suite.seed,
        "sampler": sampler.identity(),
        # Where it is the usual one it is left out: cells from before it was told keep their names.
        **({} if suite.dtype == "float32" else {"dtype": suite.dtype}),
    }
    judging = [j.identity() for j in judges]
    sizes = suite.group_sizes()
    # Every size is measured on the same utility prompts: those of the largest.
    widest = {c.text: group for group in _groups(wanted, max(sizes)) for c in group}
    methods = [m for m in suite.method_specs() if keep.method(m)]
    # Their files are read here, once: what is named is what is tried.
    every = tuple(a.pinned() if keep.attack(a) else a for a in suite.attack_specs())
    attacks = [a for a in every if keep.attack(a)]
    tried = [c for c in wanted if keep.concept(c)]
    check_budget(suite, methods, attacks, tried, goals)
    for attack in attacks:
        attack.check(tried)
    laid = Laid(edits=suite.repeats * sum(1 if m.control else len(sizes) for m in methods))
    made_for: dict[tuple[str, str], tuple[tuple[Goal, ...], bool]] = {}
    for attack, concept in product(attacks, tried):
        made_for[attack.label, concept.text] = _goals(attack, concept, goals, laid)
    for judge in (*judges, surrogate):
        for concept in tried:
            judge.check_concept(concept)
    # Each is in thousands of cells: worked out once.
    attacking = {a.label: a.identity() for a in attacks}
    seeing, measuring = surrogate.identity(), [m.identity() for m in metrics]
    searching = {
        (attack.label, concept.text): _parts({
            "stage": "attack",
            **shared,
            "attack": attacking[attack.label],
            "goals": [[g.id, g.prompt] for g in made_for[attack.label, concept.text][0]],
            "concept": bare(concept).identity(),
            "surrogate": seeing,
        })
        for attack, concept in product(attacks, tried)
    }  # fmt: skip
    named: dict[str, str] = {}
    cells: list[Cell] = []
    references: dict[str, Cell] = {}
    for concept in wanted:
        prompts = _utility(suite, concept, widest[concept.text], known, limit)
        if prompts and keep.concept(concept):
            laid.prompts(len(prompts))
            references[concept.text] = cell = _reference(concept, prompts, known, named, shared)
            cells.append(cell)
    for method in methods:
        counts = sizes[:1] if method.control else sizes  # a control is the same for all
        for size, group in ((n, group) for n in counts for group in _groups(wanted, n)):
            suffix = f" x{size}" if len(sizes) > 1 and size > 1 else ""
            kept = [c for c in group if keep.concept(c)]
            for repeat in range(suite.repeats if kept else 0):
                edit = replace(_edit(method, folder, group, repeat, shared), suffix=suffix)
                cells.append(edit)
                for concept in kept:
                    context: dict[str, Any] = {
                        "method": method,
                        "suffix": suffix,
                        "erased": tuple(group),
                        "repeat": repeat,
                        "concept": concept,
                    }
                    reference = references.get(concept.text)
                    if reference is not None:
                        cells.append(
                            _utility_cell(edit, reference, measuring, judging[0], shared, context)
                        )
                    for attack in attacks:
                        made, few = made_for[attack.label, concept.text]
                        what = {
                            **searching[attack.label, concept.text],
                            "edit": canonical_json(edit.digest),
                        }
                        search = Cell(
                            kind="attack", digest=digest_of_parts(what), attack=attack, goals=made,
                            parents={"edit": edit.digest}, **context,
                        )  # fmt: skip
                        per = suite.seeds
                        if few:  # it makes up for it with more images of each
                            asked = number_of(attack, goals) * per * len(attack.prompt_sets)
                            per = max(per, math.ceil(asked / len(made)))
                        judged = {
                            "stage": "trial",
                            "attack": search.digest,
                            "images": per,
                            "judges": judging,
                        }
                        trial = Cell(
                            kind="trial", digest=digest_of(judged), attack=attack, goals=made, images=per,
                            parents={"edit": edit.digest, "attack": search.digest}, **context,
                        )  # fmt: skip
                        cells += [search, trial]
    _check_utility(references.values(), metrics, judges[0], known)
    moving = {a.label for a in suite.transfer_specs()}
    cells += _transfers(cells, [a for a in attacks if a.label in moving], judging)
    plan = Plan(
        suite=suite, base=base_digest, cells=tuple(cells), partial=bool(only) or limit is not None, sampler=sampler,
        judges=judges, surrogate=surrogate, metrics=metrics, attacks=every, concepts=known,
        suite_digest=digest_of(suite.identity(every)), warnings=warnings_of(attacks, wanted, tried, goals),
        folder=folder,
    )  # fmt: skip
    if folder is not None:
        plan.check_base(folder)
    return plan


def _check_utility(
    references: Iterable[Cell], metrics: Sequence[Metric], judge: Judge, known: dict[str, Concept]
) -> None:
    """Refuses a metric that asks the judge of record for what it cannot see."""
    prompts = [p for cell in references for _, p in cell.prompts]
    asked = {p.concept: known[p.concept] for p in prompts}
    for metric in metrics:
        try:
            metric.check_judge(judge, list(asked.values()))
        except UsageError as error:
            raise UsageError(f"metric {metric.name}, on the utility prompts: {error}") from error


def _parts(what: dict[str, Any]) -> dict[str, str]:
    """The canonical JSON of each value: thousands of cells share it."""
    return {key: canonical_json(value) for key, value in what.items()}


def _groups(concepts: Sequence[Concept], size: int) -> list[Sequence[Concept]]:
    return [concepts[i : i + size] for i in range(0, len(concepts), size)]


def _transfers(
    cells: Sequence[Cell], attacks: Sequence[Attack], judging: Sequence[dict[str, Any]]
) -> list[Cell]:
    """Trials of what was found on one edit on those of the other methods, same concept and repeat.

    They meet the seeds of the ordinary trial, so a column of the matrix is compared on one draw.
    """
    moving = {a.digest for a in attacks}
    alike: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        if cell.kind == "trial" and cell.attack is not None and cell.attack.digest in moving:
            erased = [c.text for c in cell.erased]
            key = (cell.attack.digest, cell.concept.text, str(cell.repeat), *erased)
            alike.setdefault(key, []).append(cell)
    made: list[tuple[int, Cell]] = []
    edits = {c.digest: place for place, c in enumerate(cells) if c.kind == "edit"}
    for target, found in (pair for group in alike.values() for pair in permutations(group, 2)):
        parents = {"edit": target.parents["edit"], "attack": found.parents["attack"]}
        what = {"stage": "trial", **parents, "images": target.images, "judges": judging}
        cell = replace(target, digest=digest_of(what), source=found.method, parents=parents)
        made.append((edits[parents["edit"]], cell))
    return [cell for _, cell in sorted(made, key=itemgetter(0))]  # the cells of an edit together


def _reference(
    concept: Concept,
    prompts: tuple[tuple[str, UtilityPrompt], ...],
    known: dict[str, Concept],
    named: dict[str, str],
    shared: dict[str, Any],
) -> Cell:
    """The cell; ``named`` keeps digests of concepts, which many prompts of many cells ask for."""
    for _, prompt in prompts:
        if prompt.concept not in known:
            message = unknown("concept", prompt.concept, known)
            raise UsageError(f"utility prompt {shown(prompt.text)}: concept: {message}")
    asked = {p.concept for _, p in prompts}
    named.update({name: bare(known[name]).digest for name in asked - named.keys()})
    what = {
        "stage": "reference",
        **shared,
        "concept": concept.text,
        # The concept's name is in the seeds; what a prompt asks for is what the utility cells judge.
        "prompts": [[g, p.text, named[p.concept]] for g, p in prompts],
    }
    return Cell(kind="reference", digest=digest_of(what), concept=concept, prompts=prompts)


def _edit(
    method: Erasure,
    folder: Path | None,
    group: Sequence[Concept],
    repeat: int,
    shared: dict[str, Any],
) -> Cell:
    what: dict[str, Any] = {
        "stage": "edit",
        **shared,
        "method": method.identity(),
        "concepts": [bare(c).identity() for c in group],
        "repeat": repeat,
    }
    if read := method.base_files(folder):
        what["base_files"] = [content(path) for path in read]
    return Cell(
        kind="edit",
        digest=digest_of(what),
        method=method,
        concept=group[0],
        erased=tuple(group),
        repeat=repeat,
    )


def _utility_cell(
    edit: Cell,
    reference: Cell,
    metrics: Sequence[dict[str, Any]],
    judge: dict[str, Any],
    shared: dict[str, Any],
    context: dict[str, Any],
) -> Cell:
    what = {
        "stage": "utility",
        **shared,
        "edit": edit.digest,
        "reference": reference.digest,
        "metrics": metrics,
        "judge": judge,
    }
    parents = {"edit": edit.digest, "reference": reference.digest}
    return Cell(
        kind="utility",
        digest=digest_of(what),
        prompts=reference.prompts,
        parents=parents,
        **context,
    )


def _goals(
    attack: Attack, concept: Concept, count: int, laid: Laid
) -> tuple[tuple[Goal, ...], bool]:
    """What an attack tries for a concept, and whether the concept's prompts may be too few for it."""
    number, told = number_of(attack, count), bare(concept)
    if (own := attack.own_goals(told)) is not None:
        if not own:
            raise UsageError(f"attack {attack.name} brings no goal for {concept.text!r}")
        laid.prompts(len(own) - len(own[:number]))  # they are read as well
        laid.searches([goal.prompt for goal in own[:number]])
        refuse_minors(own[:number])
        return own[:number], False
    missing = [s for s in attack.prompt_sets if not concept.prompts.get(s)]
    if missing:
        have = ", ".join(concept.prompts) or "none"
        raise UsageError(
            f"concept {concept.text!r} has no prompts in the set {missing[0]!r} that attack {attack.name} needs "
            f"(it has: {have}); add them, or set the attack's prompt_sets"
        )
    made = tuple(
        Goal(id=f"{name}-{i:03d}", concept=told, prompt=prompt, prompt_set=name)
        for name in attack.prompt_sets
        for i, prompt in enumerate(concept.prompts[name][:number])
    )
    laid.searches([goal.prompt for goal in made])
    refuse_minors(made)
    return made, True


def _utility(
    suite: Suite,
    concept: Concept,
    erased: Sequence[Concept],
    known: dict[str, Concept],
    limit: int | None,
) -> tuple[tuple[str, UtilityPrompt], ...]:
    """Prompts that ask for other concepts, taken in turn from each, so that each weighs the same."""
    gone = {c.text for c in erased}

    def pick(names: Iterable[str], count: int) -> list[UtilityPrompt]:
        count = count if limit is None else min(limit, count)
        pools = (
            (p for p in known[n].utility if gone.isdisjoint((p.concept, *p.mentions)))
            for n in names
            if n in known and n not in gone
        )
        return list(islice(_in_turn(pools), count))

    near = [n for n in concept.neighbours if n in known]
    nearby = set(near)
    far = (n for n in known if n not in nearby)
    picked = [("neighbour", p) for p in pick(near, suite.utility.neighbours)]
    return tuple(picked + [("other", p) for p in pick(far, suite.utility.others)])


def _in_turn(pools: Iterable[Iterator[UtilityPrompt]]) -> Iterator[UtilityPrompt]:
    """The first of each pool, the second of each, and so on; pools and prompts are made as they are asked for."""
    left: list[Iterator[UtilityPrompt]] = []
    for pool in pools:
        if (prompt := next(pool, None)) is not None:
            left.append(pool)
            yield prompt
    while left:
        pools, left = left, []
        for pool in pools:
            if (prompt := next(pool, None)) is not None:
                left.append(pool)
                yield prompt


class _Only:
    """The ``--only`` patterns, sorted by what they name."""

    def __init__(self, patterns: Sequence[str], suite: Suite) -> None:
        names = {
            "method": {n for m in suite.method_specs() for n in (m.name, m.label)},
            "attack": {n for a in suite.attack_specs() for n in (a.name, a.label)},
            "concept": {c.text for c in suite.concept_specs()},
        }
        self._kept: dict[str, set[str]] = {}
        for pattern in patterns:
            found = {
                sort: set(fnmatch.filter(all_names, pattern)) for sort, all_names in names.items()
            }
            if not any(found.values()):
                everything = ", ".join(sorted(n for group in names.values() for n in group))
                raise UsageError(
                    f"--only {pattern!r} matches no method, attack or concept of the suite ({everything})"
                )
            for sort, hits in found.items():
                if hits:
                    self._kept.setdefault(sort, set()).update(hits)

    def _keeps(self, sort: str, *names: str) -> bool:
        return sort not in self._kept or bool(self._kept[sort] & set(names))

    def method(self, spec: Erasure) -> bool:
        return self._keeps("method", spec.name, spec.label)

    def attack(self, spec: Attack) -> bool:
        return self._keeps("attack", spec.name, spec.label)

    def concept(self, concept: Concept) -> bool:
        return self._keeps("concept", concept.text)
