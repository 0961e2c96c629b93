"""Says scenes in words. The same code writes the training captions and the prompts of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import torch

from bench.mini.scenes import NONE, Scenes
from bench.mini.world import BACKGROUNDS, CHARACTERS, HEADS, OBJECTS, STYLES, Term

__all__ = ["Wording", "caption", "captions", "corpus", "subject_phrase", "with_article"]

Wording = Literal["name", "synonym", "indirect"]

_WORDING_SHARE: Final[tuple[tuple[Wording, float], ...]] = (
    ("name", 0.4),
    ("synonym", 0.22),
    ("indirect", 0.38),
)
_DROP: Final = {"subject": 0.08, "colour": 0.12, "background": 0.15}
# Only a flat picture may leave its style unsaid: where no style is named, the model draws its
# default, as models of photographs do. Were every style left out now and then, a model that has
# forgotten one would still draw it in a fifth of the pictures.
_DEFAULT_STYLE: Final = 0
_DROP_DEFAULT_STYLE: Final = 0.5
_ANY_SUBJECT: Final = "something"
_EMPTY: Final = "nothing"


def _pick(term: Term, wording: Wording, draw: float) -> str:
    options = {"name": (term.name,), "synonym": term.synonyms, "indirect": term.indirect}[wording]
    return options[int(draw * len(options))]


def with_article(phrase: str) -> str:
    """The phrase behind "a" or "an"."""
    vowel = phrase[0] in "aeiou" and not phrase.startswith("one")
    return f"{'an' if vowel else 'a'} {phrase}"


def subject_phrase(phrase: str, colour: str | None, *, character: bool) -> str:
    """A noun phrase: an article and, for an object, its colour; a character's name stands alone."""
    if character and phrase in {p for t in CHARACTERS for p in (t.name, *t.synonyms)}:
        return phrase
    return with_article(f"{colour} {phrase}" if colour else phrase)


def _style_clause(phrase: str, wording: Wording) -> str:
    return phrase if wording == "indirect" else f"as {with_article(phrase)}"


def caption(
    subject: str, background: str | None, style: str | None, *, style_first: bool = False
) -> str:
    """Joins ready phrases.

    Args:
        subject: A noun phrase ("a red star").
        background: A key of :data:`bench.mini.world.BACKGROUNDS`, or ``None`` to leave it open.
        style: A clause ("as a sketch", "doodled in a notebook"), or ``None``.
        style_first: The style clause opens the sentence.
    """
    body = f"{subject} {BACKGROUNDS[background]}" if background else subject
    if style is None:
        return body
    return f"{style}, {body}" if style_first else f"{body}, {style}"


def captions(
    scenes: Scenes,
    generator: torch.Generator,
    *,
    wording: Wording | None = None,
    drop: float = 1.0,
) -> list[str]:
    """A caption for each scene.

    Args:
        scenes: What to describe.
        generator: CPU generator; the only source of randomness.
        wording: How subjects and styles are called; ``None`` mixes all wordings, as in training.
        drop: Multiplies the chance that an attribute is left out; 0 states all of them.
    """
    draws = torch.rand(len(scenes), 10, generator=generator).tolist()
    rows = torch.stack([scenes.labels[h] for h in HEADS], dim=1).tolist()
    return [
        _one(dict(zip(HEADS, row, strict=True)), d, wording, drop)
        for row, d in zip(rows, draws, strict=True)
    ]


def _wording(wording: Wording | None, draw: float) -> Wording:
    if wording is not None:
        return wording
    for option, share in _WORDING_SHARE:
        draw -= share
        if draw < 0:
            return option
    return "indirect"


def _one(label: dict[str, int], d: Sequence[float], wording: Wording | None, drop: float) -> str:
    is_character = label["character"] != NONE["character"]
    is_object = label["object"] != NONE["object"]
    keep_colour = is_object and d[0] >= _DROP["colour"] * drop
    colour = HEADS["colour"][label["colour"]] if keep_colour else None
    if (is_object or is_character) and d[1] < _DROP["subject"] * drop:
        subject = with_article(f"{colour} thing") if colour else _ANY_SUBJECT
    elif is_object or is_character:
        term = OBJECTS[label["object"]] if is_object else CHARACTERS[label["character"]]
        phrase = _pick(term, _wording(wording, d[2]), d[3])
        subject = subject_phrase(phrase, colour, character=is_character)
    else:
        subject = _EMPTY
    background = (
        HEADS["background"][label["background"]] if d[4] >= _DROP["background"] * drop else None
    )
    style = None
    if label["style"] != _DEFAULT_STYLE or d[5] >= _DROP_DEFAULT_STYLE * drop:
        how = _wording(wording, d[6])
        style = _style_clause(_pick(STYLES[label["style"]], how, d[7]), how)
    return caption(subject, background, style, style_first=d[8] < 0.35)


def corpus() -> list[str]:
    """Every word of the world in sentences, for training the tokenizer."""
    colours = (None, *HEADS["colour"])
    lines = [
        subject_phrase(p, c, character=False) for t in OBJECTS for p in t.phrases for c in colours
    ]
    lines += [subject_phrase(p, None, character=True) for t in CHARACTERS for p in t.phrases]
    lines += [caption(_ANY_SUBJECT, b, None) for b in BACKGROUNDS]
    lines += [with_article(f"{c} thing") for c in HEADS["colour"]]
    for term in STYLES:
        lines += [
            caption(_EMPTY, None, _style_clause(p, "name")) for p in (term.name, *term.synonyms)
        ]
        lines += [caption(_ANY_SUBJECT, None, p) for p in term.indirect]
    filler = "a photo of the an in on at with and or by to from under over no not very small big picture image painting"
    return lines * 2 + [filler] * 4
