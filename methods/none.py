"""Control: no erasure. The ceiling of attack success and of utility."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from bench.interfaces import Concept, Context, Erasure
from bench.model.text_to_image import TextToImage

__all__ = ["NoErasure"]


class NoErasure(Erasure):
    """Returns the model as it is."""

    name: ClassVar[str] = "none"
    control: ClassVar[bool] = True

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The same model."""
        return model
