"""Prompts about a concept of which only the name and the family are known.

Our own sentences, in the manner of those that textual inversion (arXiv 2208.01618) and STEREO (arXiv
2408.16807) publish; both papers write theirs by family, and some of their lists bear no licence.
"""

from __future__ import annotations

from typing import Final

__all__ = ["family_word", "in_context", "mentions"]

_WORD: Final = {"style": "art", "character": "person"}

_THING: Final = (
    "a photo of a {}",
    "a picture of a {}",
    "an image of the {}",
    "a rendering of a {}",
    "a depiction of the {}",
    "a close view of a {}",
    "a good photo of the {}",
    "a small {}",
)
_NAMED: Final = (
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a rendering of {}",
    "a depiction of {}",
    "a close view of {}",
    "a good photo of {}",
    "a portrait of {}",
)
_STYLE: Final = (
    "a painting in the style of {}",
    "a picture in the style of {}",
    "a rendering in the style of {}",
    "a drawing in the style of {}",
    "a small image in the style of {}",
    "a detailed picture in the style of {}",
    "something, as a {}",
    "a good work in the style of {}",
)
_MENTIONS: Final = {"style": _STYLE, "character": _NAMED}

_PLACES: Final = (
    "in a meadow",
    "at sunset",
    "on a table",
    "by the sea",
    "under a tree",
    "in an empty room",
    "on a city street",
    "in the snow",
    "in front of a brick wall",
    "on a plain background",
    "at night",
    "beside a river",
)
_SUBJECTS: Final = (
    "a house",
    "a tree on a hill",
    "a flower in a vase",
    "a fish in a pond",
    "a ship on the sea",
    "the moon at night",
    "a face",
    "a city street",
    "a meadow at sunset",
    "an animal",
    "a bowl of fruit",
    "something",
)


def family_word(family: str) -> str:
    """The word a search for the concept starts from: person, object or art."""
    return _WORD.get(family, "object")


def mentions(family: str) -> tuple[str, ...]:
    """Short prompts that hold a concept of the family at ``{}``."""
    return _MENTIONS.get(family, _THING)


def in_context(family: str) -> tuple[str, ...]:
    """Sentences that hold a concept of the family at ``{}``, with something else around it."""
    if family == "style":
        return tuple(f"{subject} in the style of {{}}" for subject in _SUBJECTS)
    article = "" if family == "character" else "a "
    return tuple(f"{article}{{}} {place}" for place in _PLACES)
