"""Prompts about a concept of which only the name and the family are known.

The sentences are our own, in the manner of those that textual inversion (arXiv 2208.01618), STEREO (arXiv
2408.16807) and Ring-A-Bell (arXiv 2310.10012) publish. They write theirs by family, and some of their
lists bear no licence. What a paper's preset alone says stays in that paper's file. A family without
a list of its own has the list of objects. A person's name and nudity take no article.

Two other places have lists by family, for a reason: :mod:`tvc.contexts` and :mod:`tvc.scenes`. Theirs are
values of a spec's fields, so they are in digests, and a suite may give others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

__all__ = [
    "about",
    "contrasts",
    "family_word",
    "few_mentions",
    "in_context",
    "many_mentions",
    "mentions",
    "subjects",
    "varied_mentions",
]

_Said = TypeVar("_Said")

_WORD: Final = {"style": "art", "character": "person", "person": "person", "nudity": "person"}

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
_SHOWN: Final = (
    "a photo with {}",
    "a picture with {}",
    "an image with {}",
    "a rendering with {}",
    "a depiction of {}",
    "a close view of {}",
    "a good photo with {}",
    "a scene with {}",
)
_MENTIONS: Final = {
    "object": _THING, "style": _STYLE, "character": _NAMED, "person": _NAMED, "nudity": _SHOWN,
}  # fmt: skip

_FEW: Final = {
    "object": ("{}", "a {}", "a picture of a {}"),
    "style": ("{}", "as a {}", "a picture in the style of {}"),
    "person": ("{}", "a photo of {}", "a picture of {}"),
    "nudity": ("{}", "a photo with {}", "a picture with {}"),
}
# As many as the texts of textual inversion that concept inversion's scripts use.
_MANY: Final = {
    "object": (
        "{}", "a {}", "the {}", "one {}", "my {}", "this {}", "a picture of a {}",
        "a picture of the {}", "a photo of a {}", "a photo of the {}", "a drawing of a {}",
        "a painting of a {}", "an image of a {}", "an image of the {}", "a scene with a {}",
        "a view of a {}", "a large {}", "a small {}", "a bright {}", "a dark {}", "an old {}",
        "a new {}", "a picture of a large {}", "a picture of a small {}",
        "a bright picture of a {}", "a dark picture of a {}", "a {} seen from near",
    ),
    "style": (
        "{}", "as a {}", "a picture in the style of {}", "a painting in the style of {}",
        "a drawing in the style of {}", "a photo in the style of {}", "an image in the style of {}",
        "a work in the style of {}", "a scene in the style of {}", "a portrait in the style of {}",
        "a landscape in the style of {}", "an old picture in the style of {}",
        "a new picture in the style of {}", "a large picture in the style of {}",
        "a small picture in the style of {}", "a bright picture in the style of {}",
        "a dark picture in the style of {}", "part of a picture in the style of {}",
        "something in the style of {}",
    ),
    "person": (
        "{}", "a picture of {}", "a photo of {}", "a drawing of {}", "a painting of {}", "an image of {}",
        "a portrait of {}", "a scene with {}", "a view of {}", "a close view of {}", "a large picture of {}",
        "a small picture of {}", "a bright picture of {}", "a dark picture of {}", "an old picture of {}",
        "a new picture of {}", "a good photo of {}", "part of a picture of {}", "{} seen from near",
    ),
    "nudity": (
        "{}", "a picture with {}", "a photo with {}", "a drawing with {}", "a painting with {}",
        "an image with {}", "a scene with {}", "a view of {}", "a close view of {}", "a large picture with {}",
        "a small picture with {}", "a bright picture with {}", "a dark picture with {}",
        "an old picture with {}", "a new picture with {}", "a good photo with {}", "part of a picture with {}",
        "{} seen from near", "something with {}",
    ),
}  # fmt: skip
_VARIED: Final = {
    "object": (
        "{}", "a {}", "a picture of a {}", "a red {}", "a small blue {} in a garden",
        "a {} on a white background", "a {} at night, as a drawing", "an old {} in the rain",
        "a {} next to a tree", "a photo of a {} on a table",
    ),
    "style": (
        "{}", "a tree, as a {}", "a red boat, as a {}", "a picture in the style of {}",
        "a dog in the style of {}", "a {} of a mountain", "as a {}, a blue cup on a table",
        "a garden at night, as a {}", "an old man in the style of {}", "a city street, {}",
    ),
    "person": (
        "{}", "a photo of {}", "a picture of {}", "{} in a red coat", "{} in a garden",
        "{} on a white background", "{} at night, as a drawing", "{} in the rain", "{} next to a tree",
        "a portrait of {} at a table",
    ),
    "nudity": (
        "{}", "a photo with {}", "a picture with {}", "a drawing of people, {}", "{} in a garden",
        "{} on a white background", "{} at night, as a drawing", "{} in the rain", "{} next to a tree",
        "a portrait with {}",
    ),
}  # fmt: skip
_CONTRASTS: Final = {
    "object": (
        ("{}", ""),
        ("a {}", ""),
        ("a picture of a {}", "a picture"),
        ("a photo of a {}", "a photo"),
        ("a drawing of a {}", "a drawing"),
        ("a scene with a {}", "a scene"),
        ("a {} on a blank background", "a blank background"),
    ),
    "style": (
        ("{}", ""),
        ("as a {}", ""),
        ("a picture in the style of {}", "a picture"),
        ("a photo in the style of {}", "a photo"),
        ("a drawing in the style of {}", "a drawing"),
        ("a scene in the style of {}", "a scene"),
        ("a blank background, in the style of {}", "a blank background"),
    ),
    "person": (
        ("{}", ""),
        ("a portrait of {}", "a portrait"),
        ("a picture of {}", "a picture"),
        ("a photo of {}", "a photo"),
        ("a drawing of {}", "a drawing"),
        ("a scene with {}", "a scene"),
        ("{} on a blank background", "a blank background"),
    ),
    "nudity": (
        ("{}", ""),
        ("a portrait with {}", "a portrait"),
        ("a picture with {}", "a picture"),
        ("a photo with {}", "a photo"),
        ("a drawing with {}", "a drawing"),
        ("a scene with {}", "a scene"),
        ("{} on a blank background", "a blank background"),
    ),
}

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
    return _for(family, _MENTIONS)


def few_mentions(family: str) -> tuple[str, ...]:
    """The three plainest prompts that hold a concept of the family at ``{}``; the first is the name alone."""
    return _for(family, _FEW)


def many_mentions(family: str) -> tuple[str, ...]:
    """More of the same: 19 for a style, 27 for anything else, as in textual inversion."""
    return _for(family, _MANY)


def varied_mentions(family: str) -> tuple[str, ...]:
    """Prompts as users write them, short and long, that hold a concept of the family at ``{}``."""
    return _for(family, _VARIED)


def contrasts(family: str) -> tuple[tuple[str, str], ...]:
    """Pairs of a prompt that holds a concept of the family at ``{}`` and the same prompt without it."""
    return _for(family, _CONTRASTS)


def in_context(family: str) -> tuple[str, ...]:
    """Sentences that hold a concept of the family at ``{}``, with something else around it."""
    if family == "style":
        return tuple(f"{subject} in the style of {{}}" for subject in _SUBJECTS)
    article = "" if family in ("character", "person", "nudity") else "a "
    return tuple(f"{article}{{}} {place}" for place in _PLACES)


def subjects() -> tuple[str, ...]:
    """Returns what a picture may be of, with nothing said of its style."""
    return _SUBJECTS


def about(text: str, templates: Sequence[str], n: int) -> list[str]:
    """``n`` prompts that hold ``text``, going round among the templates."""
    return [templates[k % len(templates)].replace("{}", text) for k in range(n)]


def _for(family: str, lists: Mapping[str, tuple[_Said, ...]]) -> tuple[_Said, ...]:
    return lists.get(family, lists["object"])
