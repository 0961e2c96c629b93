"""Prompt sets: what a user would simply type. Built in: the concept's name, its synonyms, and indirect descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from attacks.prompt_file import read_prompts
from bench.interfaces import Access, Attack, Candidate, Goal, Rng, Target

__all__ = ["Prompts"]


class Prompts(Attack):
    """Tries prompts as they are.

    Attributes:
        prompt_sets: Which of the concept's sets.
        file: A CSV or JSONL of prompts to use instead; see
            :func:`attacks.prompt_file.read_prompts`.
    """

    name: ClassVar[str] = "prompts"
    access: ClassVar[Access] = Access.PROMPT
    prompt_sets: tuple[str, ...] = Field(("name", "synonyms", "indirect"), min_length=1)
    file: str | None = None

    def run(self, target: Target, goals: Sequence[Goal], *, rng: Rng) -> list[Candidate]:
        """One candidate a goal; with a file, one a row of the file that suits the goal's concept.

        Raises:
            UsageError: the file is not usable.
        """
        if self.file is None:
            return [Candidate(goal=g.id, prompt=g.prompt, variant=g.prompt_set) for g in goals]
        rows = read_prompts(self.file)
        if not goals:
            return []
        concept = goals[0].concept.text
        wanted = [r for r in rows if r.concept in ("", concept)]
        return [Candidate(goal=f"file-{r.line}", prompt=r.prompt, variant="file") for r in wanted]
