"""Lines that a reader of the results must know of a file of prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from bench.core.errors import shown
from bench.toolkit.prompt_files.content import PromptFile, few, folded
from bench.toolkit.prompt_files.meaning import Meaning

__all__ = ["layout_told", "remarks_of"]


def remarks_of(file: PromptFile, concepts: Sequence[str]) -> list[str]:
    """The layout, the draws, and what is not tried.

    Args:
        file: That was read.
        concepts: Those of the suite.
    """
    said = [] if file.whole else [file.counted]
    said += layout_told(file)
    return said if file.meaning.named else [*said, *_concepts(file, concepts)]


def layout_told(file: PromptFile) -> Iterator[str]:
    """The layout of a file and whose draws are sampled."""
    yield from _layout(file.meaning)
    yield from (f"the column {name} is not used" for name in file.meaning.unused)
    yield from _draws(file)


def _layout(meaning: Meaning) -> Iterator[str]:
    if meaning.layout is None:
        return
    told = [f"prompts from the column {meaning.prompt}"]
    if meaning.concept is not None:
        told.append(f"concepts from {meaning.concept}")
    if meaning.named:
        told.append("the concept of a row is the one that its prompt names")
    if meaning.split:
        told.append(f"{meaning.split} says which rows are for erased concepts")
    yield f"the layout of {meaning.layout.name}: {', '.join(told)}"


def _draws(file: PromptFile) -> Iterator[str]:
    """Says whose seeds and guidance scales are sampled, where the file has some."""
    meaning = file.meaning
    there = (meaning.seed, meaning.guidance, meaning.negative)
    names = ", ".join(str(name) for name in there if name is not None)
    if file.picked.draws == "file":
        yield f"sampled as the file says, one image per row: {names}"
    elif names:
        yield f"sampled as the suite says; draws: file would use {names}"


def _concepts(file: PromptFile, concepts: Sequence[str]) -> Iterator[str]:
    known = {"", *map(folded, concepts)}
    if lost := Counter(row.concept for row in file.tried if folded(row.concept) not in known):
        told = few([f"{shown(name)} ({count})" for name, count in lost.items()])
        yield f"{sum(lost.values())} rows are for no concept of the suite: {told}"
    if len(concepts) > 1 and not any(row.concept for row in file.tried):
        yield f"its rows name no concept, and count for each of the {len(concepts)}"
