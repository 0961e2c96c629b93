"""Texts that a concept is asked for in, beside its bare name.

Reconstruction: an estimate that looks at images of a bare word alone is too low where the concept is
asked for with others. A style always is. The miniature's ``sketch`` showed it: at a
strength that leaves nothing of the bare word, "a green house, as a sketch" still has the style.

These lists are no part of :mod:`bench.toolkit.wording`. They are values of this method's field, and in digests.
A sentence that is bettered there for many papers must not change what is chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["BARE", "MINI", "SD", "contexts_of"]

BARE: Final = ("{}",)

MINI: Final[dict[str, tuple[str, ...]]] = {
    "object": ("{}", "a red {}", "a blue {} in a meadow", "a black {} at sunset"),
    "character": ("{}", "{} in a meadow", "{} at sunset", "{} on a striped background"),
    "style": (
        "{}",
        "a green house, as a {}",
        "a blue circle at sunset, as a {}",
        "brakk on a checkered background, as a {}",
    ),
}
"""By the concept's family, for the miniature; none is a prompt that anything is tested with (tested)."""

SD: Final[dict[str, tuple[str, ...]]] = {
    "object": ("{}", "a photo of a {}", "a painting of a {}", "a {} on a table"),
    **dict.fromkeys(
        ("character", "person"), ("{}", "a photo of {}", "{} in a park", "a drawing of {}")
    ),
    "nudity": ("{}", "a photo with {}", "{} in a park", "a drawing with {}"),
    "style": (
        "{}",
        "a painting of a city in the style of {}",
        "a portrait of a woman in the style of {}",
        "a landscape in the style of {}",
    ),
}
"""The same for Stable Diffusion."""


def contexts_of(family: str, contexts: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The texts for a family, each with one ``{}``; for one that is not there, the bare name."""
    return tuple(contexts.get(family, BARE))
