"""A plan: every cell that a suite asks for, each named by a digest of everything its numbers depend on.

It is made without computing anything: a cell's digest covers its specification and its parents'
digests. :mod:`bench.run.cells` has a record of each kind, :mod:`bench.run.planning` a planner for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.config.refusals import check_sides
from bench.config.suite import Suite
from bench.core.digest import digest_of
from bench.core.spec import Spec
from bench.interfaces import Attack, Concept, Judge, Measure, Rng
from bench.model.pipeline.networks import image_side
from bench.model.sampler import Sampler
from bench.run.cells import Cell
from bench.run.planning.layout import lay_out
from bench.run.planning.naming import table_name
from bench.run.planning.scope import scope_of
from bench.run.remarks import method_remarks, warnings_of
from bench.run.seals import Seals

__all__ = ["Cell", "Plan", "make_plan"]


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
        seals: The plug-ins as the plan read them.
        warnings: What a reader of the results must know and nobody asked for, a line each.
        folder: The base's pipeline folder, which the plug-ins were found to suit; ``None``: they were
            not asked yet, and a run asks them.
        whole: The cells of the plan that this one is cut from; empty: it is whole.
    """

    suite: Suite
    base: str
    cells: tuple[Cell, ...]
    partial: bool
    sampler: Sampler
    judges: tuple[Judge, ...]
    surrogate: Judge
    metrics: tuple[Measure, ...]
    attacks: tuple[Attack, ...]
    concepts: dict[str, Concept]
    suite_digest: str
    seals: Seals
    warnings: tuple[str, ...] = ()
    folder: Path | None = None
    whole: tuple[Cell, ...] = ()

    def attack_name(self, attack: Attack) -> str:
        """An attack's name in tables; see :func:`bench.run.planning.naming.table_name`."""
        return table_name(attack, self.attacks)

    def cut_to(self, cells: Sequence[Cell]) -> Plan:
        """The plan with some of its cells, which knows what it is cut from."""
        return replace(self, cells=tuple(cells), whole=self.laid_out)

    @property
    def laid_out(self) -> tuple[Cell, ...]:
        """The cells that its suite lays out, whatever of them is computed."""
        return self.whole or self.cells

    @property
    def specs(self) -> tuple[Spec, ...]:
        """Every plug-in that the cells need, once."""
        # The cells share the objects; a digest would be worked out for each of thousands.
        once = {id(spec): spec for cell in self.cells for spec in cell.plugins}
        return (*once.values(), *self.judges, self.surrogate, *self.metrics)

    def check_base(self, folder: Path | None) -> None:
        """Refuses a base that a plug-in does not suit, or whose images a judge does not take.

        Args:
            folder: The base's pipeline folder; ``None`` for one that was not loaded from any.

        Raises:
            UsageError: in one line, with the field to change.
        """
        for spec in self.specs:
            spec.check_base(folder)
        if folder is not None and self.sampler.size is None:
            check_sides((*self.judges, self.surrogate), None, own=image_side(folder))

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
            Patterns of one sort widen, of different sorts narrow. A transfer needs both its methods.
        limit: At most so many prompts per set, and so many utility prompts per group.

    Raises:
        UsageError: a pattern matches nothing; a limit is below 1; the parts do not suit each other,
            the prompts, their files or the base.
    """
    scope = scope_of(suite, base_digest, folder=folder, only=only, limit=limit)
    specs = (*scope.methods, *scope.every, *suite.judges, *suite.metrics)
    seals = Seals.of(specs, suite.surrogate, folder)  # before the cells: what changes is noticed
    plan = Plan(
        suite=suite, base=base_digest, cells=lay_out(scope), partial=bool(only) or limit is not None,
        sampler=suite.sampler, judges=suite.judges, surrogate=suite.surrogate, metrics=suite.metrics,
        attacks=scope.every, concepts=scope.known,
        suite_digest=digest_of(suite.identity(scope.every, scope.hashes)), seals=seals,
        warnings=warnings_of(scope), folder=folder,
    )  # fmt: skip
    if folder is None:
        return plan
    plan.check_base(folder)
    return replace(plan, warnings=(*plan.warnings, *method_remarks(plan.specs, folder)))
