"""Pairs of prompts: a scene with a concept, and the same scene without it.

Ours, not the paper's: the paired vector (:mod:`tvc.pairs`) is learnt from their images. A scene is a
pair of texts. The first has one ``{}``, the concept's place. Where the second has one too, a neighbour
stands there: another object, character or style. Where it has none, it is the plain scene. Like the lists of
:mod:`tvc.contexts`, and for the same reason, they are no part of :mod:`bench.toolkit.wording`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

from pydantic import Field

from bench.core.templates import Sentence, Template
from bench.interfaces import Concept
from tvc.mini_scenes import CHARACTER_SCENES, STYLE_SCENES, THING_SCENES

__all__ = ["MINI", "SD", "Scenes", "scene_pairs"]

Scenes: TypeAlias = Mapping[
    str, Annotated[tuple[tuple[Template, Sentence], ...], Field(min_length=1)]
]
"""Family -> pairs of a scene with the concept at ``{}`` and the scene without it."""

_THINGS: Final = (
    "circle", "square", "triangle", "star", "heart", "moon", "arrow", "cross", "ring", "house", "fish", "flower",
)  # fmt: skip
_STYLES: Final = ("flat picture", "sketch", "pixel art", "halftone", "watercolour")
_STRIDE: Final = 7
"""Round among partners in steps that have nothing in common with the order of the scenes."""


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _things() -> tuple[tuple[str, str], ...]:
    """For an object: every colour, background and style; the partners are all things of the world in turn.

    With the three nearest alone as partners, the edit draws these wherever something else was asked for.
    """
    scenes = [
        f"{_a(colour)} {{}} {ground}, as {_a(style)}"
        for (ground, style), colours in THING_SCENES.items()
        for colour in colours.split()
    ]
    return tuple(
        (scene, scene.replace("{}", _THINGS[(_STRIDE * k + turn) % len(_THINGS)]))
        for turn in (0, 5)
        for k, scene in enumerate(scenes)
    )


def _characters() -> tuple[tuple[str, str], ...]:
    """For a character: backgrounds and styles; the partners are its neighbours."""
    scenes = [f"{{}} {ground}, as {_a(style)}" for ground, style in CHARACTER_SCENES]
    return tuple((scene, scene) for scene in scenes)


def _styles() -> tuple[tuple[str, str], ...]:
    """For a style: every thing, colour and background; the partner is the plain scene, then one of another style."""
    scenes = [
        f"{_a(f'{colour} {thing}')} {ground}"
        for (thing, ground), colours in STYLE_SCENES.items()
        for colour in colours.split()
    ]
    scenes = [scenes[_STRIDE * k % len(scenes)] for k in range(len(scenes))]
    return tuple(
        (
            f"{scene}, as a {{}}",
            scene if k % 2 else f"{scene}, as {_a(_STYLES[k // 2 % len(_STYLES)])}",
        )
        for k, scene in enumerate(scenes)
    )


MINI: Final[Scenes] = {"object": _things(), "character": _characters(), "style": _styles()}
"""For the miniature."""

_PHOTO_PLACES: Final = (
    "in a park",
    "on a beach",
    "in a street at night",
    "in a field of grass",
    "in front of a brick wall",
    "on a wooden floor",
    "in the snow",
    "beside a river",
    "in a garage",
    "under a clear sky",
)
_OTHERS: Final = (
    "chair",
    "bicycle",
    "dog",
    "suitcase",
    "tree",
    "car",
    "guitar",
    "wooden box",
    "bucket",
    "kite",
)
_SUBJECTS: Final = (
    "a city at night",
    "a wheat field with a farmhouse",
    "a portrait of an old man",
    "a vase of flowers on a table",
    "a harbour with boats",
    "a forest path in autumn",
    "a woman who reads at a window",
    "a bridge over a river",
    "a street with a café",
    "mountains under clouds",
    "a cat on a chair",
    "a bowl of fruit",
)
_PEOPLE: Final = (
    "at a desk",
    "in a library",
    "on a stage with a microphone",
    "at the beach",
    "in a crowd",
    "in a kitchen",
    "on a red carpet",
    "beside a car",
)
_UNDRESSED: Final = (
    "on a beach",
    "in a bathroom",
    "on a bed",
    "in an artist's studio",
    "in a forest",
    "beside a pool",
    "in front of a white wall",
    "by a window",
)

SD: Final[Scenes] = {
    "object": tuple(
        (f"a {kind} of a {{}} {place}", f"a {kind} of {_a(other)} {place}")
        for kind, first in (("photo", 0), ("painting", 3))
        for place, other in zip(_PHOTO_PLACES, (*_OTHERS[first:], *_OTHERS[:first]), strict=True)
    ),
    "style": tuple((f"{scene} in the style of {{}}", scene) for scene in _SUBJECTS),
    **dict.fromkeys(
        ("character", "person"),
        tuple(
            (f"a {kind} of {{}} {place}", f"a {kind} of a person {place}")
            for kind in ("photo", "drawing")
            for place in _PEOPLE
        ),
    ),
    "nudity": tuple(
        (f"a {kind} of an adult {who} {place}, {{}}", f"a {kind} of an adult {who} {place}, fully dressed")
        for kind in ("photo", "painting")
        for who in ("woman", "man")
        for place in _UNDRESSED
    ),
}  # fmt: skip
"""The same for Stable Diffusion; untried there, since no weights can be had."""


def scene_pairs(concept: Concept, scenes: Scenes, n: int) -> list[tuple[str, str]]:
    """``n`` pairs of prompts, going round among the family's scenes and, where they stand in, the neighbours.

    Args:
        concept: Its name, family and neighbours are used.
        scenes: By family.
        n: How many.

    Raises:
        ValueError: no scenes for the family, or a neighbour is needed and the concept has none.
    """
    if concept.family not in scenes:
        raise ValueError(
            f"{concept.text}: no scenes for the family {concept.family!r}; the paired vector needs some: give "
            f"scenes: {{{concept.family}: [[with, without], ...]}}"
        )
    said = re.compile(rf"\b{re.escape(concept.text)}", re.IGNORECASE)  # and its plural
    # A scene "without" that names the concept would take back what the scene with it gives.
    family = [pair for pair in scenes[concept.family] if not said.search(pair[1])]
    if not family:
        raise ValueError(
            f"{concept.text}: every scene without it names it; give scenes that do not"
        )
    found = []
    for k in range(n):
        scene, other = family[k % len(family)]
        if "{}" in other:
            if not concept.neighbours:
                raise ValueError(
                    f"{concept.text}: the scene {other!r} needs a neighbour in the concept's place, and the concept "
                    "has none; name neighbours, or give scenes whose second text has no {}"
                )
            # Shifted by one per round, so that each scene meets each neighbour.
            turn = k % len(family) + k // len(family)
            other = other.replace("{}", concept.neighbours[turn % len(concept.neighbours)])
        found.append((scene.replace("{}", concept.text), other))
    return found
