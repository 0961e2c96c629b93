"""Tries each method and attack on a small pipeline of every family of bases, and keeps the answers in a page.

To work is to run through to images, with the fields of ``quick``. Whether a concept goes away, or comes
back, is another question: the denoisers here may be untrained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from bench.core.errors import UsageError, in_one_line
from bench.interfaces import Attack, Concept, Erasure, Goal, Judge, Rng, Target, registry
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage

__all__ = ["Tried", "rows_of", "table", "try_on", "what_comes_of"]

_CONCEPT: Final = Concept(text="star", family="object", prompts={"name": ("a red star",)})
_SAMPLER: Final = Sampler(steps=2)
_WORKS: Final = "works"
_IF_DRAWN: Final = "works where the base draws the concept"
_CANNOT_DRAW: Final = "the base cannot draw"
"""What a method says that looks at the base's images first; an untrained one draws nothing."""
_GIVEN: Final = "needs what a user gives"


@dataclass(frozen=True, slots=True)
class Tried:
    """One plug-in on one base.

    Attributes:
        kind: ``method`` or ``attack``.
        name: The plug-in's.
        base: The base's.
        said: ``works``, on which condition, or what the refusal said.
    """

    kind: registry.PlugPoint
    name: str
    base: str
    said: str


def try_on(bases: Mapping[str, TextToImage]) -> Iterator[Tried]:
    """Every registered method and attack on every base, by kind and name.

    Args:
        bases: Models by the name of their base; each was loaded from a miniature's folder.

    Raises:
        Exception: whatever is no refusal: it is a mistake of ours.
    """
    for kind in ("method", "attack"):
        for name in registry.names(kind):
            for base, model in bases.items():
                yield Tried(kind, name, base, what_comes_of(kind, name, model))


def what_comes_of(
    kind: registry.PlugPoint, name: str, model: TextToImage, judge: Judge | None = None
) -> str:
    """The answer of a plug-in on a model, with the fields of ``quick``: ``works``, on which condition, or its refusal.

    Args:
        kind: ``method`` or ``attack``.
        name: The plug-in's.
        model: The unedited model.
        judge: The surrogate of an attack; ``None``: the judge of the miniatures.

    Raises:
        Exception: whatever is no refusal: it is a mistake of ours.
    """
    cls: Any = registry.get(kind, name)
    if cls.needs:
        return _GIVEN
    spec, rng = cls(**cls.quick), Rng(("bases", kind, name))
    try:
        if isinstance(spec, Erasure):
            edited = spec(model, [_CONCEPT], rng=rng)
            edited.sample(["a red star"], [0], _SAMPLER).all_finite()
        else:
            _attack(spec, model, judge or cast(Judge, registry.build("judge", "mini_judge")), rng)
    except (UsageError, ValueError) as error:
        said = in_one_line(error)
        return _IF_DRAWN if _CANNOT_DRAW in said else said
    return _WORKS


def _attack(spec: Attack, model: TextToImage, judge: Judge, rng: Rng) -> None:
    goal = Goal("0", _CONCEPT, "a red star")
    for found in spec(Target(model, _SAMPLER, judge), [goal], rng=rng):
        latents = None if found.latents_Chw is None else found.latents_Chw[None]
        model.sample(
            [found.prompt],
            [0],
            _SAMPLER,
            conditioning=found.conditioning,
            latents_BChw=latents,
            start=found.start,
        ).all_finite()


def table(rows: Sequence[Tried]) -> str:
    """The answers as a table of Markdown; refusals are numbered and follow in full."""
    bases = list(dict.fromkeys(row.base for row in rows))
    said = {(row.kind, row.name, row.base): row.said for row in rows}
    notes: dict[str, int] = {}
    lines = ["| | plug-in | " + " | ".join(f"`{base}`" for base in bases) + " |"]
    lines.append("|---|---|" + "---|" * len(bases))
    for kind, name in dict.fromkeys((row.kind, row.name) for row in rows):
        answers = [said[kind, name, base] for base in bases]
        cells = [_cell(answer, notes) for answer in answers]
        lines.append(f"| {kind} | `{name}` | " + " | ".join(cells) + " |")
    if notes:
        lines += ["", *(f"{number}. {note}" for note, number in notes.items())]
    return "\n".join(lines)


def _cell(answer: str, notes: dict[str, int]) -> str:
    if answer in (_WORKS, _IF_DRAWN, _GIVEN):
        return answer
    return f"refused ({notes.setdefault(answer, len(notes) + 1)})"


def rows_of(page: Path) -> dict[tuple[str, str], list[str]]:
    """The table of a page: kind and name -> what stands under each base."""
    found = re.findall(
        r"^\| (method|attack) \| `(\w+)` \| (.*) \|$", page.read_text(), re.MULTILINE
    )
    return {(kind, name): cells.split(" | ") for kind, name, cells in found}
