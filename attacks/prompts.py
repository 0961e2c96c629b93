"""Prompts as they are: what a user would simply type, or candidates that somebody published.

Built in: the concept's name, its synonyms, and indirect descriptions. A file brings others: prompts of
yours, or what an attack found on another model (``candidates.jsonl`` of a report).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from pydantic import Field, PrivateAttr

from attacks.shared.prompt_file import CandidateFile, PromptRow, file_hashes, read_prompt_file
from bench.core.errors import UsageError, shown
from bench.core.spec import PathText
from bench.interfaces import (
    Access,
    Attack,
    Candidate,
    Concept,
    Context,
    Goal,
    PromptSets,
    Target,
)
from bench.interfaces.prompt_source import Columns, Draw, Draws, Picked, Where
from bench.toolkit.prompt_files.telling import remarks_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Prompts"]

_SET: Final = "file"
"""The prompt set of goals that a file brings."""


class Prompts(Attack):
    """Tries prompts as they are.

    Attributes:
        prompt_sets: Which of the concept's sets.
        file: A file of prompts, or of candidates, to use instead; see ``docs/prompt-files.md``.
        columns: What its columns hold, where that is not seen from its header.
        where: The rows that count: values by column.
        draws: Whose seeds and guidance scales are sampled: the suite's, or those of its rows.
    """

    name: ClassVar[str] = "prompts"
    access: ClassVar[Access] = Access.PROMPT
    prompt_sets: PromptSets = ("name", "synonyms", "indirect")
    file: PathText | None = None
    columns: Columns = Columns()
    where: Where = Field(default_factory=dict)
    draws: Draws = "suite"
    _content: CandidateFile | None = PrivateAttr(None)

    def told(self, field: str, value: object) -> str:
        """See the base class: of columns and of rows, what was said."""
        match value:
            case Columns():
                return str(value.named)
            case Mapping():
                return str({name: list(texts) for name, texts in value.items()})
        return super().told(field, value)

    @property
    def holds(self) -> Access:
        """More than prompts where the candidates bring text states or noise."""
        try:
            content = self._read()
        except UsageError:  # which the attack itself will say
            return self.access
        rows = content.rows if content is not None else ()
        if any(row.latents for row in rows):
            return Access.LATENT
        return Access.EMBEDDING if any(row.states for row in rows) else self.access

    def identity(self) -> dict[str, Any]:
        """With a file, its content counts and not its name; what picks its rows, where it is said.

        Whose draws are sampled is in no search: it is in the trials.

        Raises:
            UsageError: the file cannot be read.
        """
        identity = super().identity()
        for name in ("columns", "where", "draws"):
            del identity["fields"][name]
        chosen = self._picked.picking()
        chosen.pop("draws", None)
        identity["fields"] |= chosen
        if self.file is not None:
            kept = self._content
            hashes = file_hashes(self.file) if kept is None else kept.hashes
            identity["fields"]["file"] = list(hashes)
        return identity

    def pinned(self) -> Self:
        """The attack with the content of its file, read once: its digest names what it tries.

        Raises:
            UsageError: the file is not usable.
        """
        kept = self.model_copy()
        kept._content = self._read()
        return kept

    def check(self, concepts: Sequence[Concept]) -> None:
        """Reads the file; what only the model can tell, the shape of tensors, waits for :meth:`run`.

        Raises:
            UsageError: the file is not usable, or has no row for one of the concepts.
        """
        if (content := self._read()) is None:
            if said := self._picked.picking():
                raise UsageError(f"{self.name}: {next(iter(said))}: expected a file too, got none")
            return
        if self.goal_file is not None:
            raise UsageError(
                f"{self.name}: expected file or goals: {{file: ...}}, got both; drop one"
            )
        content.prompts.check([concept.text for concept in concepts])
        content.tensors_of(content.of(*(c.text for c in concepts)))

    def own_goals(self, concept: Concept) -> tuple[Goal, ...] | None:
        """With a file, one for each of its rows that suits the concept; candidates of one goal are one.

        Raises:
            UsageError: the file is not usable.
        """
        if (content := self._read()) is None:
            return None
        first = {row.goal_id: row for row in reversed(content.of(concept.text))}
        return tuple(
            Goal(id=name, concept=concept, prompt=row.prompt, prompt_set=_SET)
            for name, row in reversed(first.items())
        )

    def own_draws(self, concept: Concept) -> Mapping[str, Draw]:
        """With a file that is asked for its draws, those of its goals.

        Raises:
            UsageError: the file is not usable.
        """
        if (content := self._read()) is None:
            return {}
        return {row.goal_id: row.draw for row in content.of(concept.text) if row.draw is not None}

    def remarks(self, concepts: Sequence[Concept]) -> tuple[str, ...]:
        """Says what is tried of the file, and what is not.

        Raises:
            UsageError: the file is not usable.
        """
        if (content := self._read()) is None:
            return ()
        said = remarks_of(content.prompts, [concept.text for concept in concepts])
        return tuple(f"{self.name}, {content.prompts.path.name}: {line}" for line in said)

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """One candidate per goal; with a file, one per row of the file that suits the goal's concept.

        A file brings its own goals (:meth:`own_goals`): they choose among its rows.

        Raises:
            UsageError: the file is not usable, its tensors do not fit the model, or a goal is not the
                file's.
        """
        content = self._read()
        if content is None:
            return [Candidate(goal=g.id, prompt=g.prompt, variant=g.prompt_set) for g in goals]
        chosen = {goal.id for goal in goals}
        rows = content.of(goals[0].concept.text)
        wanted = [row for row in rows if row.goal_id in chosen]
        if others := chosen - {row.goal_id for row in wanted}:
            raise UsageError(
                f"{self.file}: expected the goals of the file, got others, such as {shown(min(others))}; "
                "give prompts or a file, not both"
            )
        tensors = content.tensors_of(wanted)
        for row in wanted:
            self._fits(target, row.line, tensors.get(row.states), tensors.get(row.latents))
            self._starts(target, row)
        return [
            Candidate(
                goal=r.goal_id,
                prompt=r.prompt,
                states_LD=tensors.get(r.states),
                latents_Chw=tensors.get(r.latents),
                variant=r.found or "file",
                start=r.start,
            )
            for r in wanted
        ]

    @property
    def _picked(self) -> Picked:
        return Picked(columns=self.columns, where=self.where, draws=self.draws)

    def _read(self) -> CandidateFile | None:
        if self.file is None or self._content is not None:
            return self._content
        return read_prompt_file(self.file, self._picked)

    def _fits(
        self, target: Target, line: int, states_LD: Tensor | None, latents_Chw: Tensor | None
    ) -> None:
        model = target.model
        if states_LD is not None and model.encode([""]).pooled_BD is not None:
            raise UsageError(
                f"{self.file}:{line}: text states, but this model takes a pooled vector beside them, "
                "which such files do not hold; give prompts"
            )
        for kind, value, like in (
            ("text states", states_LD, lambda: model.encode([""]).states_BLD),
            ("noise", latents_Chw, lambda: model.noise([0], target.sampler)),
        ):
            if value is not None and value.shape != (shape := like().shape[1:]):
                raise UsageError(
                    f"{self.file}:{line}: {kind} of {list(value.shape)}, but this model takes "
                    f"{list(shape)}; they fit models of the base they were found on"
                )

    def _starts(self, target: Target, row: PromptRow) -> None:
        steps = target.sampler.steps
        if row.start and (row.start >= steps or not row.latents):
            raise UsageError(
                f"{self.file}:{row.line}: start {row.start}: expected noise, and fewer steps than the "
                f"sampler's {steps}; it fits suites with the sampler that it was found with"
            )
