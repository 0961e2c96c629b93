"""Names of what is to stay, where a paper's own list is not at hand."""

from __future__ import annotations

from collections.abc import Sequence

from bench.interfaces import Concept
from methods.shared.calibration import THINGS, named

__all__ = ["kept_names", "without"]


def kept_names(concepts: Sequence[Concept]) -> list[str]:
    """The concepts' neighbours and a fixed list of everyday words, without those that name a concept."""
    return without(concepts, [*(name for c in concepts for name in c.neighbours), *THINGS])


def without(concepts: Sequence[Concept], texts: Sequence[str]) -> list[str]:
    """The texts that name none of the concepts, each once, in their order."""
    return [t for t in dict.fromkeys(texts) if not any(named(c.text, t) for c in concepts)]
