"""Plans scores: what each judge says of a trial's images, and each metric of a utility cell's."""

from __future__ import annotations

from typing import Any

from bench.core.digest import canonical_json, digest_of_parts
from bench.interfaces import Metric, SetMetric, bare
from bench.run.cells import (
    ComparedCell,
    JudgedCell,
    MeasuredCell,
    ReferenceCell,
    TrialCell,
    UtilityCell,
)
from bench.run.planning.naming import table_name
from bench.run.planning.scope import Scope, parts_of

__all__ = ["Scores"]


class Scores:
    """The planner of scores. Judges and metrics are written out once, and so is what prompts ask for."""

    def __init__(self, scope: Scope) -> None:
        judges, metrics = scope.suite.judges, scope.suite.metrics
        same = parts_of({"stage": "score"})
        self._scope = scope
        self._judges = [
            (judge, table_name(judge, judges), same | parts_of({"judge": judge.identity()}))
            for judge in judges
        ]
        self._metrics = [
            (metric, table_name(metric, metrics), same | parts_of({"metric": metric.identity()}))
            for metric in metrics
            if isinstance(metric, Metric)
        ]
        self._sets = [
            (
                metric,
                table_name(metric, metrics),
                same | parts_of({"set_metric": metric.identity()}),
            )
            for metric in metrics
            if isinstance(metric, SetMetric)
        ]
        self._asked: dict[str, dict[str, str]] = {}  # by the digest of a reference

    def judged(self, trial: TrialCell) -> list[JudgedCell]:
        """The scores of each judge for a trial, the judge of record's first."""
        parents = {"sample": trial.digest}
        sample = parts_of(parents)
        return [
            JudgedCell(
                digest=digest_of_parts({**same, **sample}),
                **trial.inherited,
                parents=parents,
                by=name,
                trial=trial,
                judge=judge,
            )
            for judge, name, same in self._judges
        ]

    def measured(self, utility: UtilityCell, reference: ReferenceCell) -> list[MeasuredCell]:
        """The values of each metric for a utility cell."""
        parents = {"sample": utility.digest, "reference": reference.digest}
        record = self._scope.suite.judges[0]
        sample, asked = parts_of(parents), self._asked_by(reference)
        told = any(prompt.concept for _, prompt in reference.prompts)
        cells = []
        for metric, name, same in self._metrics:
            if metric.asks_judge and not told:
                continue  # captions ask for nothing that a judge could tell
            about = {**same, **sample, "concepts": asked["concepts"]}
            if metric.asks_judge:
                about |= {"judge": self._judges[0][2]["judge"], "counts": asked["counts"]}
            cells.append(
                MeasuredCell(
                    digest=digest_of_parts(about),
                    **utility.inherited,
                    parents=parents,
                    by=name,
                    utility=utility,
                    reference=reference,
                    metric=metric,
                    judge=record if metric.asks_judge else None,
                )
            )
        return cells

    def compared(self, utility: UtilityCell, reference: ReferenceCell) -> list[ComparedCell]:
        """The values of each metric that compares a utility cell's images as a set."""
        parents = {"sample": utility.digest, "reference": reference.digest}
        sample = parts_of(parents)
        return [
            ComparedCell(
                digest=digest_of_parts({**same, **sample}),
                **utility.inherited,
                parents=parents,
                by=name,
                utility=utility,
                reference=reference,
                metric=metric,
            )
            for metric, name, same in self._sets
        ]

    def _asked_by(self, reference: ReferenceCell) -> dict[str, str]:
        """The concepts that prompts of a reference ask for, and the labels that count as each."""
        if (found := self._asked.get(reference.digest)) is None:
            known, judge = self._scope.known, self._scope.suite.judges[0]
            names = [prompt.concept for _, prompt in reference.prompts]
            once = {name: bare(known[name]) for name in dict.fromkeys(names) if name}
            digests = {name: concept.digest for name, concept in once.items()}
            counts: dict[str, Any] = {n: list(judge.counts(c)) for n, c in once.items()}
            found = self._asked[reference.digest] = {
                "concepts": canonical_json([digests.get(name, "") for name in names]),
                "counts": canonical_json(counts),
            }
        return found
