"""Texts with a place that a concept's name takes: one type per kind, so that a slip is refused as the spec is built.

A template without its place says the same of every concept: a method would erase "a photo", and the
concept would stay. No other brace is allowed. So it is one and the same whether the place is filled by
``str.format`` or by ``str.replace``, which read ``{{`` in two ways.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator

__all__ = ["Captioned", "Sentence", "Template"]


def _held(text: str, *places: str, least: int = 1) -> str:
    """The text itself, if it has each place once, or ``least`` times, and no other brace.

    Raises:
        ValueError: it has not.
    """
    rest, fits = text, True
    for place in places:
        fits = fits and least <= text.count(place) <= 1
        rest = rest.replace(place, "")
    if not fits or "{" in rest or "}" in rest:
        count = "one" if least else "at most one"
        wanted = " and ".join(f"{count} {place}" for place in places)
        raise ValueError(f"expected text with {wanted} and no other brace, got {text!r}")
    return text


def _template(text: str) -> str:
    return _held(text, "{}")


def _sentence(text: str) -> str:
    return _held(text, "{}", least=0)


def _captioned(text: str) -> str:
    return _held(text, "{caption}", "{target}")


Template: TypeAlias = Annotated[str, AfterValidator(_template)]
"""With one ``{}``, where the concept's name goes."""

Sentence: TypeAlias = Annotated[str, AfterValidator(_sentence)]
"""With one ``{}`` or none: a text that may do without the name."""

Captioned: TypeAlias = Annotated[str, AfterValidator(_captioned)]
"""With one ``{caption}`` and one ``{target}``: a caption in the manner of a concept."""
