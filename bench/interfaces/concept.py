"""Concepts to erase, and the prompts that ask for them or for something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, Field

from bench.core.errors import shown
from bench.core.spec import Spec

__all__ = ["Concept", "Name", "PromptSets", "UtilityPrompt", "bare"]


def _name(text: str) -> str:
    """The text, if it can name a line of a table and a file."""
    if not text or text != text.strip():
        raise ValueError(f"expected a name, without spaces around it, got {shown(text)}")
    if len(text) > _LONGEST_NAME:
        raise ValueError(f"expected a name of at most {_LONGEST_NAME} characters, got {len(text)}")
    if "/" in text or "\\" in text:
        raise ValueError(f"expected a name without / and \\, got {shown(text)}")
    return text


def _no_pool(text: str) -> str:
    if text == "all":
        raise ValueError("expected a concept's name, got 'all', which tables call the pooled line")
    return text


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError(f"expected each prompt set once, got {shown(list(names))}")
    return names


_LONGEST_NAME: Final = 100
Name = Annotated[str, AfterValidator(_name)]
"""Of a concept or a prompt set: 1 to 100 characters that can stand in a table and in a file's name."""
PromptSets = Annotated[tuple[str, ...], Field(min_length=1, max_length=100), AfterValidator(_once)]


class UtilityPrompt(Spec):
    """A prompt that asks for something other than the erased concept.

    Attributes:
        text: The prompt.
        concept: Name of the concept it asks for.
        mentions: Every concept it names: it is not used when one of them is erased.
    """

    kind: ClassVar[str] = "utility_prompt"
    text: str
    concept: str
    mentions: tuple[str, ...] = ()


class Concept(Spec):
    """Something to erase.

    Attributes:
        text: What an erasure method is told: the canonical name, and nothing else about the prompts
            below.
        family: ``object``, ``style``, ``character``, ...
        head: Which head of a classifier tells it; empty: the one of its family.
        guide: What the edited model should draw instead; empty: nothing in particular.
        neighbours: Concepts that look or mean alike.
        prompts: Set name -> prompts that ask for it (``name``, ``synonyms``, ``indirect``).
        utility: Prompts that ask for it by name, used when *another* concept is erased.
    """

    kind: ClassVar[str] = "concept"
    text: Annotated[Name, AfterValidator(_no_pool)]
    family: str = "object"
    head: str = ""
    guide: str = ""
    neighbours: tuple[str, ...] = ()
    prompts: Mapping[Name, tuple[str, ...]] = {}
    utility: tuple[UtilityPrompt, ...] = ()


def bare(concept: Concept) -> Concept:
    """The concept as a method sees it: without the prompts that will test the edit."""
    return concept.model_copy(update={"prompts": {}, "utility": ()})
