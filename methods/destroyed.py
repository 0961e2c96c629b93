"""Control: a destroyed model. The floor of attack success, and of utility: robustness alone is worth nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from bench.core.lazy import torch
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.text_to_image import TextToImage

__all__ = ["Destroyed"]


class Destroyed(Erasure):
    """Replaces the UNet's output convolution by noise of the same size: every prediction is meaningless.

    Attributes:
        scale: Standard deviation of the noise, in units of the layer's own.
    """

    name: ClassVar[str] = "destroyed"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    control: ClassVar[bool] = True
    scale: float = Field(1.0, gt=0, le=1000)

    def roles(self) -> frozenset[Role]:
        """The output."""
        return frozenset({Role.OUTPUT, Role.CONVOLUTION})

    def parameters(self, model: TextToImage) -> list[str]:
        """The output convolution's kernel alone."""
        convolutions = set(model.having(Role.CONVOLUTION)) & set(model.having(Role.OUTPUT))
        return [name for name in convolutions if name.endswith(".weight")]

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with a random last layer."""
        (name,) = self.parameters(model)
        old = model.parameter(name)
        noise = torch.randn(old.shape, generator=ctx.rng.generator("conv_out"))
        return model.with_weights({name: noise * (self.scale * old.float().std().item())})
