"""Plans what an edit costs: the reference of each concept, and each edit against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.config.budget import Laid
from bench.core.digest import digest_of_parts
from bench.core.errors import UsageError, shown, unknown
from bench.interfaces import Concept
from bench.interfaces.prompt_source import Draw
from bench.run.cells import EditCell, Prompts, ReferenceCell, UtilityCell
from bench.run.planning.captions import CAPTION, Captions
from bench.run.planning.scope import Scope, parts_of
from bench.run.planning.utility_prompts import utility_prompts

__all__ = ["References", "Utilities", "check_metrics"]


class References:
    """The planner of references: the unedited model's images of a concept's utility prompts."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._same = {**scope.shared, **parts_of({"stage": "reference"})}

    def cells(self, laid: Laid) -> dict[str, ReferenceCell]:
        """A reference per concept that is kept and has utility prompts, by its name.

        Args:
            laid: Counts what is laid out.

        Raises:
            UsageError: a prompt asks for an unknown concept, no caption is left, or the prompts are
                too many.
        """
        # Every size is measured on the same utility prompts: those of the largest.
        widest = max(self._scope.suite.group_sizes)
        kept = {concept.text for concept in self._scope.tried}
        captions = Captions(self._scope)
        cells: dict[str, ReferenceCell] = {}
        for group in self._scope.groups(widest):
            for concept in (c for c in group if c.text in kept):
                own = utility_prompts(self._scope, concept, group)
                more, draws = captions.of(group)
                if prompts := own + more:
                    laid.prompts(len(prompts))
                    drawn = {len(own) + place: draw for place, draw in draws.items()}
                    cells[concept.text] = self._cell(concept, prompts, drawn)
        return cells

    def _cell(self, concept: Concept, prompts: Prompts, draws: Mapping[int, Draw]) -> ReferenceCell:
        for group, prompt in prompts:
            if group != CAPTION and prompt.concept not in self._scope.known:
                message = unknown("concept", prompt.concept, self._scope.known)
                raise UsageError(f"utility prompt {shown(prompt.text)}: concept: {message}")
        what: dict[str, Any] = {
            "concept": concept.text,  # it is in the seeds
            "prompts": [prompt.text for _, prompt in prompts],
        }
        if draws:
            what["draws"] = [[place, *draw.as_json()] for place, draw in draws.items()]
        digest = digest_of_parts({**self._same, **parts_of(what)})
        return ReferenceCell(digest=digest, concept=concept, prompts=prompts, draws=draws)


class Utilities:
    """The planner of utility cells."""

    def __init__(self, scope: Scope) -> None:
        self._same = {**scope.shared, **parts_of({"stage": "utility"})}

    def of(self, edit: EditCell, reference: ReferenceCell) -> UtilityCell:
        """The cell of an edit's cost on the prompts of a reference."""
        parents = {"edit": edit.digest, "reference": reference.digest}
        return UtilityCell(
            digest=digest_of_parts({**self._same, **parts_of(parents)}),
            **edit.inherited | {"concept": reference.concept},
            parents=parents,
            prompts=reference.prompts,
            draws=reference.draws,
        )


def check_metrics(scope: Scope, references: Iterable[ReferenceCell]) -> None:
    """Refuses a metric that asks the judge of record for what it cannot see.

    Raises:
        UsageError: with the metric.
    """
    asked: Mapping[str, Concept] = {
        prompt.concept: scope.known[prompt.concept]
        for cell in references
        for group, prompt in cell.prompts
        if group != CAPTION
    }
    for metric in scope.suite.metrics:
        try:
            metric.check_judge(scope.suite.judges[0], list(asked.values()))
        except UsageError as error:
            raise UsageError(f"metric {metric.name}, on the utility prompts: {error}") from error
