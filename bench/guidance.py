"""How the noise predictions of several text branches are combined at each step: a slot of an edited model.

A guidance is differentiable, so an attack goes through the edited model's own guidance, not through
a plain UNet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from bench.spec import Spec

if TYPE_CHECKING:
    from bench.model import TextToImage

__all__ = ["ClassifierFree", "Guidance", "NegativePrompt"]


class Guidance(Spec, ABC):
    """Combines K branches of noise predictions."""

    kind: ClassVar[str] = "guidance"

    @abstractmethod
    def contexts(self, model: TextToImage, states_BLD: Tensor) -> Tensor:
        """The text states of every branch, [K, B, L, D]; the prompt's own branch is the last."""

    @abstractmethod
    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The guided prediction.

        Args:
            eps_KBChw: Predictions of the branches.
            scale: Guidance scale; 1 means no guidance.
            step: Index of the sampling step, from 0.
            memory: What the previous step returned; ``None`` at the first.

        Returns:
            [B, C, h, w], and the memory for the next step.
        """


class ClassifierFree(Guidance):
    """``eps(0) + s (eps(c) - eps(0))`` (Ho & Salimans 2022)."""

    name: ClassVar[str] = "classifier_free"

    def contexts(self, model: TextToImage, states_BLD: Tensor) -> Tensor:
        """The empty prompt and the prompt."""
        return _pair(model, "", states_BLD)

    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See the class."""
        return torch.lerp(eps_KBChw[0], eps_KBChw[1], scale), None


class NegativePrompt(Guidance):
    """The concept takes the empty prompt's place: ``eps(n) + s (eps(c) - eps(n))``. No effect at scale 1.

    Attributes:
        text: The negative prompt.
    """

    name: ClassVar[str] = "negative_prompt"
    text: str

    def contexts(self, model: TextToImage, states_BLD: Tensor) -> Tensor:
        """The negative prompt and the prompt."""
        return _pair(model, self.text, states_BLD)

    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See the class."""
        return torch.lerp(eps_KBChw[0], eps_KBChw[1], scale), None


def _pair(model: TextToImage, text: str, states_BLD: Tensor) -> Tensor:
    with torch.no_grad():
        other = model.encode([text])
    return torch.stack([other.expand_as(states_BLD), states_BLD])
