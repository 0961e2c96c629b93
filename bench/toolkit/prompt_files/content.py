"""The content of a file of prompts: which rows are for which concept, and which measure what an edit costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from bench.core.errors import UsageError, shown
from bench.interfaces.prompt_source import Picked
from bench.toolkit.prompt_files.meaning import Meaning
from bench.toolkit.prompt_files.rows import Dropped, PromptRow

__all__ = ["PromptFile", "few", "folded"]


@dataclass(frozen=True, eq=False)
class PromptFile:
    """The content of a prompt file when it was read.

    Attributes:
        path: Where it was read.
        sha256: Of the file.
        picked: What was asked of it.
        meaning: What its columns hold.
        rows: Those that can be used.
        dropped: Those that cannot, by reason.
    """

    path: Path
    sha256: str
    picked: Picked
    meaning: Meaning
    rows: tuple[PromptRow, ...]
    dropped: Dropped = field(default_factory=Dropped)
    _found: dict[tuple[str, ...], list[PromptRow]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def counted(self) -> str:
        """``142 rows, 20 withheld as they may speak of minors, 1 empty: N = 121``."""
        kept = len(self.rows) - len(self.tried)
        kept_too = f", {kept} of concepts to be kept" if kept else ""
        return f"{self.read}{kept_too}: N = {len(self.tried)}"

    @property
    def read(self) -> str:
        """``142 rows, 20 withheld as they may speak of minors, 1 empty``."""
        gone = self.dropped
        count = len(self.rows) + gone.minors + gone.empty + gone.elsewhere
        parts = [f"{count} row{'s' * (count != 1)}"]
        parts += [f"{gone.elsewhere} left out by where"] * bool(gone.elsewhere)
        parts += [f"{gone.minors} withheld as they may speak of minors"] * bool(gone.minors)
        parts += [f"{gone.empty} empty"] * bool(gone.empty)
        return ", ".join(parts)

    @property
    def whole(self) -> bool:
        """Whether every row is tried."""
        return self.dropped == Dropped() and len(self.tried) == len(self.rows)

    @cached_property
    def tried(self) -> tuple[PromptRow, ...]:
        """The rows that ask for erased concepts, or for whatever concept."""
        return tuple(row for row in self.rows if row.split == "erased")

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Which rows are for which concept: there may be thousands of both."""
        places: dict[str, list[int]] = {}
        for place, row in enumerate(self.tried):
            places.setdefault(folded(row.concept), []).append(place)
        return places

    def of(self, *concepts: str) -> list[PromptRow]:
        """The rows to try for any of the concepts, or for whatever concept."""
        if concepts not in self._found:
            names = {"", *map(folded, concepts)}
            places = (
                [self._naming(concept) for concept in concepts]
                if self.meaning.named
                else [self._places.get(name, []) for name in names]
            )
            self._found[concepts] = [
                self.tried[place] for place in sorted({*chain.from_iterable(places)})
            ]
        return self._found[concepts]

    def suits(self, concept: str) -> bool:
        """Whether any row is for the concept."""
        return bool(self.of(concept))

    def check(self, concepts: Sequence[str]) -> None:
        """Refuses a concept that no row is for.

        Raises:
            UsageError: with the concepts that there are.
        """
        for concept in concepts:
            if not self.suits(concept):
                others = few([shown(name) for name in Counter(r.concept for r in self.tried)])
                column = self.meaning.concept
                away = "add rows, or leave one of them out"
                if column is not None:
                    first = shown(next((r.concept for r in self.tried), ""))
                    away += f"; where: {{{column}: {first}}} takes such rows for whatever concept"
                said = "names it in its prompt" if self.meaning.named else f"but for {others}"
                raise UsageError(
                    f"{self.path}: has no row for the concept {shown(concept)}, "
                    f"{'as none ' * self.meaning.named}{said}; {away}"
                )

    def captions(self, erased: Iterable[str]) -> tuple[list[PromptRow], int]:
        """The rows that measure what an edit costs, and how many are left out as they ask for what is erased.

        Of a list with both, those are the rows of concepts to be kept.

        Args:
            erased: The names of the concepts.
        """
        both = len(self.tried) < len(self.rows)
        rows = [row for row in self.rows if row.split == "other"] if both else list(self.rows)
        names = [folded(name) for name in erased]
        asking = re.compile("|".join(_as_words(name) for name in names)) if names else None
        kept = [
            row
            for row in rows
            if folded(row.concept) not in names
            and (asking is None or not asking.search(folded(row.prompt)))
        ]
        return kept, len(rows) - len(kept)

    def _naming(self, concept: str) -> list[int]:
        """The places of rows whose prompts name a concept."""
        asking = re.compile(_as_words(folded(concept)))
        return [i for i, row in enumerate(self.tried) if asking.search(folded(row.prompt))]


def folded(text: str) -> str:
    """A name or a prompt as it is compared: small letters, single spaces."""
    return " ".join(text.split()).casefold()


def few(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _as_words(name: str) -> str:
    r"""A pattern of the name as whole words, also in the plural: ``\bstars?\b``."""
    return rf"(?<!\w){re.escape(name)}s?(?!\w)"
