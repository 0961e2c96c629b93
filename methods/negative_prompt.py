"""Negative prompt: the concept takes the empty prompt's place in classifier-free guidance.

Reproduced: the practice of users, as evaluated by Pham et al. 2023 (arXiv 2308.01508): no weight is
    changed. With a ``weight``, the negation of Composable Diffusion (Liu et al., ECCV 2022, arXiv
    2206.01714); see :class:`bench.model.guidance.NegativePrompt`.
Bypassed by: turning guidance off, or a sampler that does not apply it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from bench.core.bounds import Weight
from bench.interfaces import Concept, Context, Erasure, Slot
from bench.model.guidance import NegativePrompt
from bench.model.text_to_image import TextToImage

__all__ = ["NegativePromptErasure"]


class NegativePromptErasure(Erasure):
    """Guides away from the concepts' names.

    Presets:
        mini: for the miniature, whose small guidance scale gives a plain negative prompt little to
            subtract.

    Attributes:
        weight: How much is subtracted, as a multiple of a plain negative prompt's.
        separator: Between the names of several concepts.
    """

    name: ClassVar[str] = "negative_prompt"
    slots: ClassVar[frozenset[Slot]] = frozenset({"guidance"})
    bypassed_by: ClassVar[tuple[str, ...]] = ("guidance off",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {"mini": {"weight": 2.0}}
    weight: Weight = 1.0
    separator: str = ", "

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with another guidance."""
        text = self.separator.join(c.text for c in concepts)
        return model.with_guidance(NegativePrompt(text=text, weight=self.weight))
