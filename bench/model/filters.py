"""Filters, which refuse a prompt or blank an image: a slot of an edited model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from bench.core.lazy import torch
from bench.core.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from bench.model.encoder import TextEncoder

__all__ = ["Filter", "ImageFilter", "PromptFilter"]


class Filter(Spec, ABC):
    """Base of both kinds."""

    kind: ClassVar[str] = "filter"


class PromptFilter(Filter):
    """Refuses prompts. It never sees injected embeddings: that is what bypasses it."""

    @abstractmethod
    def refuses(self, model: TextEncoder, prompts: Sequence[str]) -> Tensor:
        """Bool [B]."""


class ImageFilter(Filter):
    """Blanks images."""

    @abstractmethod
    def blanks(self, images_B3HW: Tensor) -> Tensor:
        """Bool [B] for images in [0, 1]."""


def refused_by(filters: Sequence[Filter], model: TextEncoder, prompts: Sequence[str]) -> Tensor:
    """Bool [B]: some filter refuses the prompt."""
    refused = torch.zeros(len(prompts), dtype=torch.bool)
    for item in filters:
        if isinstance(item, PromptFilter):
            refused |= item.refuses(model, prompts).cpu()
    return refused


def blanked_by(filters: Sequence[Filter], images_B3HW: Tensor) -> Tensor:
    """Bool [B]: some filter blanks the image."""
    blanked = torch.zeros(len(images_B3HW), dtype=torch.bool)
    for item in filters:
        if isinstance(item, ImageFilter):
            blanked |= item.blanks(images_B3HW).cpu()
    return blanked
