"""Negative prompt: the concept takes the empty prompt's place in classifier-free guidance.

Reproduced: the practice of users, as evaluated by Pham et al. 2023 (arXiv 2308.01508): no weight is
    changed.
Bypassed by: turning guidance off, or a sampler that does not apply it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from bench.guidance import NegativePrompt
from bench.interfaces import Concept, Erasure, Progress, Rng, Slot, silent
from bench.model import TextToImage

__all__ = ["NegativePromptErasure"]


class NegativePromptErasure(Erasure):
    """Guides away from the concepts' names.

    Attributes:
        separator: Between the names of several concepts.
    """

    name: ClassVar[str] = "negative_prompt"
    slots: ClassVar[frozenset[Slot]] = frozenset({"guidance"})
    bypassed_by: ClassVar[tuple[str, ...]] = ("guidance off",)
    separator: str = ", "

    def erase(
        self,
        model: TextToImage,
        concepts: Sequence[Concept],
        *,
        rng: Rng,
        progress: Progress = silent,
    ) -> TextToImage:
        """The model with another guidance."""
        return model.with_guidance(
            NegativePrompt(text=self.separator.join(c.text for c in concepts))
        )
