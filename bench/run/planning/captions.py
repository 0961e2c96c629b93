"""Utility prompts of a user's file, which name no concept: captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from bench.core.characters import visible
from bench.core.errors import UsageError, shown
from bench.interfaces import Concept, UtilityPrompt
from bench.interfaces.prompt_source import Draw
from bench.run.cells import Prompts
from bench.run.planning.scope import Scope
from bench.toolkit.prompt_files.content import PromptFile
from bench.toolkit.prompt_files.rows import PromptRow
from bench.toolkit.prompt_files.telling import layout_told

__all__ = ["CAPTION", "Captions", "captions_told"]

CAPTION = "caption"
"""The group of utility prompts that a file brings."""


class Captions:
    """The planner of captions; a row is one prompt, whatever is erased."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._made: dict[int, UtilityPrompt] = {}

    def of(self, erased: Sequence[Concept]) -> tuple[Prompts, Mapping[int, Draw]]:
        """The captions that measure an edit, and how the file says to sample them, by their place.

        Args:
            erased: What no caption may ask for.

        Raises:
            UsageError: none is left.
        """
        if (file := self._scope.captions) is None:
            return (), {}
        rows, _ = file.captions([concept.text for concept in erased])
        if not rows:
            names = ", ".join(shown(concept.text) for concept in erased)
            raise UsageError(f"{file.path}: expected rows that do not ask for {names}, got none")
        used = list(islice(rows, self._scope.captioned))
        draws = {i: row.draw for i, row in enumerate(used) if row.draw is not None}
        return tuple((CAPTION, self._prompt(row)) for row in used), draws

    def _prompt(self, row: PromptRow) -> UtilityPrompt:
        if row.line not in self._made:
            # A caption may be broken over lines: spaces are all that a tokenizer sees of that.
            text = " ".join(visible(row.prompt).split())
            self._made[row.line] = UtilityPrompt(text=text, concept="")
        return self._made[row.line]


def captions_told(scope: Scope, file: PromptFile) -> Iterator[str]:
    """Says what is used of a file of captions, and what is not.

    Args:
        scope: What is planned.
        file: Its captions.
    """
    yield f"{file.read}; at most {scope.captioned} are sampled per concept"
    yield from layout_told(file)
    gone = {c.text: file.captions([c.text])[1] for c in scope.tried}
    if told := [f"{count} for {name}" for name, count in gone.items() if count]:
        more = f" and {len(told) - 4} more" if len(told) > 4 else ""
        yield f"rows that ask for what is erased are left out: {', '.join(told[:4])}{more}"
