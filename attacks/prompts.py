"""Prompts as they are: what a user would simply type, or candidates that somebody published.

Built in: the concept's name, its synonyms, and indirect descriptions. A file brings others: prompts of
yours, or what an attack found on another model (``candidates.jsonl`` of a report).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from attacks.prompt_file import PromptRow, read_prompts, read_tensors, tensors_file
from bench.digest import file_sha256
from bench.errors import UsageError, shown
from bench.interfaces import Access, Attack, Candidate, Concept, Goal, PromptSets, Rng, Target
from bench.minors import about_minors

__all__ = ["Prompts"]


class Prompts(Attack):
    """Tries prompts as they are.

    Attributes:
        prompt_sets: Which of the concept's sets.
        file: A CSV or JSONL of prompts, or candidates, to use instead; see
            :func:`attacks.prompt_file.read_prompts`.
    """

    name: ClassVar[str] = "prompts"
    access: ClassVar[Access] = Access.PROMPT
    prompt_sets: PromptSets = ("name", "synonyms", "indirect")
    file: str | None = None

    @property
    def holds(self) -> Access:
        """More than prompts where the candidates bring text states or noise."""
        try:
            rows = read_prompts(self.file) if self.file is not None else []
        except UsageError:  # which the attack itself will say
            rows = []
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
            try:
                files = [file_sha256(Path(self.file))]
                if tensors_file(self.file).is_file():
                    files.append(file_sha256(tensors_file(self.file)))
            except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
                reason = error.strerror if isinstance(error, OSError) else error
                raise UsageError(f"{self.file}: cannot be read ({reason})") from error
            identity["fields"]["file"] = files
        return identity

    def check(self, concepts: Sequence[Concept]) -> None:
        """Reads the file; what only the model can tell, the shape of tensors, waits for :meth:`run`.

        Raises:
            UsageError: the file is not usable, or a row of it speaks of minors, tried or not.
        """
        if self.file is None:
            return
        rows = read_prompts(self.file)
        for row in rows:
            if about_minors(row.prompt):
                raise UsageError(
                    f"{self.file}:{row.line}: prompts about minors are refused, and this may be one: "
                    f"{shown(row.prompt)}; remove the row"
                )
        read_tensors(self.file, _of(rows, {c.text for c in concepts}))

    def run(self, target: Target, goals: Sequence[Goal], *, rng: Rng) -> list[Candidate]:
        """One candidate a goal; with a file, one a row of the file that suits the goal's concept.

        Raises:
            UsageError: the file is not usable, or its tensors do not fit the model.
        """
        if self.file is None:
            return [Candidate(goal=g.id, prompt=g.prompt, variant=g.prompt_set) for g in goals]
        rows = read_prompts(self.file)
        if not goals:
            return []
        wanted = _of(rows, {goals[0].concept.text})
        tensors = read_tensors(self.file, wanted)
        for row in wanted:
            self._fits(target, row.line, tensors.get(row.states), tensors.get(row.latents))
        return [
            Candidate(
                goal=f"file-{r.goal or r.line}",
                prompt=r.prompt,
                states_LD=tensors.get(r.states),
                latents_Chw=tensors.get(r.latents),
                variant=r.found or "file",
            )
            for r in wanted
        ]

    def _fits(
        self, target: Target, line: int, states_LD: Tensor | None, latents_Chw: Tensor | None
    ) -> None:
        model = target.model
        for kind, value, like in (
            ("text states", states_LD, lambda: model.encode([""])),
            ("noise", latents_Chw, lambda: model.noise([0], target.sampler)),
        ):
            if value is not None and value.shape != (shape := like().shape[1:]):
                raise UsageError(
                    f"{self.file}:{line}: {kind} of {list(value.shape)}, but this model takes "
                    f"{list(shape)}; they fit models of the base they were found on"
                )


def _of(rows: Sequence[PromptRow], concepts: Collection[str]) -> list[PromptRow]:
    """The rows for any of the concepts, or for whatever concept."""
    return [row for row in rows if not row.concept or row.concept in concepts]
