"""Prompts as they are: what a user would simply type, or candidates that somebody published.

Built in: the concept's name, its synonyms, and indirect descriptions. A file brings others: prompts of
yours, or what an attack found on another model (``candidates.jsonl`` of a report).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from pydantic import PrivateAttr

from attacks.shared.prompt_file import PromptFile, file_hashes, read_prompt_file
from attacks.shared.prompt_rows import MEANT
from bench.core.errors import UsageError, shown
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

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Prompts"]

_SET: Final = "file"
"""The prompt set of goals that a file brings."""


class Prompts(Attack):
    """Tries prompts as they are.

    Attributes:
        prompt_sets: Which of the concept's sets.
        file: A CSV or JSONL of prompts, or candidates, to use instead; see
            :func:`attacks.shared.prompt_file.read_prompt_file`.
    """

    name: ClassVar[str] = "prompts"
    access: ClassVar[Access] = Access.PROMPT
    prompt_sets: PromptSets = ("name", "synonyms", "indirect")
    file: str | None = None
    _content: PromptFile | None = PrivateAttr(None)

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
        """With a file, its content counts and not its name.

        Raises:
            UsageError: the file cannot be read.
        """
        identity = super().identity()
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
            return
        for concept in concepts:
            if not content.suits(concept.text):
                others = Counter(row.concept for row in content.rows)
                raise UsageError(
                    f"{self.file}: has no row for the concept {shown(concept.text)}, but for "
                    f"{_few([shown(name) for name in others])}; add rows, or leave one of them out"
                )
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

    def remarks(self, concepts: Sequence[Concept]) -> tuple[str, ...]:
        """Says what was dropped from the file, and which of its columns and rows count for nothing.

        Raises:
            UsageError: the file is not usable.
        """
        if (content := self._read()) is None:
            return ()
        name, rows = content.path.name, content.rows
        said = [content.counted] * bool(content.withheld or content.empty)
        unused = content.unused or {}
        for column in (c for c in unused if MEANT[c] == "concept"):
            kinds, free = len(unused[column]), sum(not row.concept for row in rows)
            alike = f"{free} rows of {kinds} values of it all count for one concept"
            away = "split the file, or name the concepts in a column concept"
            said.append(
                f"the column {column} is not used" + f": {alike}; {away}" * bool(free and kinds > 1)
            )
        if drawn := [c for c in unused if MEANT[c] == "draw"]:
            said.append(f"not used, as the suite has its own: {', '.join(drawn)}")
        known = {"", *(concept.text for concept in concepts)}
        if lost := Counter(row.concept for row in rows if row.concept not in known):
            told = _few([f"{shown(name)} ({count})" for name, count in lost.items()])
            said.append(f"{sum(lost.values())} rows are for no concept of the suite: {told}")
        return tuple(f"{self.name}, {name}: {line}" for line in said)

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """One candidate a goal; with a file, one a row of the file that suits the goal's concept.

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
        return [
            Candidate(
                goal=r.goal_id,
                prompt=r.prompt,
                states_LD=tensors.get(r.states),
                latents_Chw=tensors.get(r.latents),
                variant=r.found or "file",
            )
            for r in wanted
        ]

    def _read(self) -> PromptFile | None:
        if self.file is None or self._content is not None:
            return self._content
        return read_prompt_file(self.file)

    def _fits(
        self, target: Target, line: int, states_LD: Tensor | None, latents_Chw: Tensor | None
    ) -> None:
        model = target.model
        for kind, value, like in (
            ("text states", states_LD, lambda: model.encode([""]).states_BLD),
            ("noise", latents_Chw, lambda: model.noise([0], target.sampler)),
        ):
            if value is not None and value.shape != (shape := like().shape[1:]):
                raise UsageError(
                    f"{self.file}:{line}: {kind} of {list(value.shape)}, but this model takes "
                    f"{list(shape)}; they fit models of the base they were found on"
                )


def _few(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
