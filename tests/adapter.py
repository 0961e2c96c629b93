"""Hooks that tests use: an adapter with a gate of the size that papers use, and one that does nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bench.interfaces import Role
from bench.model.hooks import Hook, Pass
from bench.model.text_to_image import TextToImage

__all__ = ["Adapter", "Idle", "adapted", "adapter_tensors"]


class Adapter(Hook):
    """``out + m^2 up(gelu(down(given)))`` behind every cross-attention; m says how near a prompt is to the concept.

    The gate is the larger of the cosine of text states and the share of the concept's tokens in the
    prompt. Without token ids it is the cosine alone.
    """

    name: ClassVar[str] = "test_adapter"
    bypassed_by: ClassVar[tuple[str, ...]] = ("injected text states",)
    strength: float = 1.0

    def layers(self, tensors: Mapping[str, Tensor]) -> Sequence[str]:
        return [n.removesuffix("/down") for n in tensors if n.endswith("/down")]

    def gate(self, tensors: Mapping[str, Tensor], told: Pass) -> Tensor | None:
        assert told.conditioning is not None
        states = told.conditioning.states_BLD.flatten(1)
        near = torch.cosine_similarity(states, tensors["states"].flatten()[None])
        if told.ids:
            shared = (told.ids[0][:, :, None] == tensors["ids"]).any(1).to(near.dtype).mean(1)
            near = torch.maximum(near, shared)
        return near

    def change(
        self,
        layer: str,
        given: Tensor,
        out: Tensor,
        tensors: Mapping[str, Tensor],
        gate: Tensor | None,
        told: Pass,
    ) -> Tensor:
        assert gate is not None
        inner = torch.nn.functional.gelu(given @ tensors[f"{layer}/down"].T)
        more = inner @ tensors[f"{layer}/up"].T
        return out + self.strength * gate.square()[:, None, None] * more


class Idle(Hook):
    """Gives every output back as it is."""

    name: ClassVar[str] = "test_idle"
    at: tuple[str, ...] = ()

    def layers(self, tensors: Mapping[str, Tensor]) -> Sequence[str]:
        return self.at

    def change(
        self,
        layer: str,
        given: Tensor,
        out: Tensor,
        tensors: Mapping[str, Tensor],
        gate: Tensor | None,
        told: Pass,
    ) -> Tensor:
        return out


def adapter_tensors(
    model: TextToImage, concept: str = "star", rank: int = 16, size: float = 0.3
) -> dict[str, Tensor]:
    """Random tensors of an adapter at every cross-attention of a model, and the gate's concept."""
    draw = torch.Generator().manual_seed(0)
    told = model.encode([concept])
    own = torch.tensor(model.words.ids(concept))
    tensors = {"states": told.states_BLD[0], "ids": own}
    for layer in model.layers(Role.CROSS_ATTENTION):
        width = model.parameter(f"{layer}.to_q.weight").shape[1]
        tensors[f"{layer}/down"] = torch.randn(rank, width, generator=draw) * width**-0.5
        tensors[f"{layer}/up"] = torch.randn(width, rank, generator=draw) * size
    return tensors


def adapted(model: TextToImage, size: float = 0.3) -> TextToImage:
    """The model with an adapter in it."""
    return model.with_hook(Adapter(), adapter_tensors(model, size=size))
