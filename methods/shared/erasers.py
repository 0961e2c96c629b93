"""Erasers: small adapters behind the cross-attention, as Receler has them (Huang et al., ECCV 2024, arXiv 2311.17717).

    o <- o + up(gelu(down(o))),    o the output of a cross-attention before it is added to what it was given.

Both maps have biases. A file of the authors' loads into the same hook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from bench.core.lazy import F, torch
from bench.model.hooks import Hook, Pass

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MAPS", "Erasers", "added", "fresh"]

MAPS = ("down.weight", "down.bias", "up.weight", "up.bias")
"""The tensors of a layer: [r, d], [r], [d, r], [d]."""


class Erasers(Hook):
    """Adds what a small network makes of a layer's own output.

    It reads no prompt: every row is changed alike, the empty prompt's too. Tensors are named
    ``layer/down.weight`` and so on, see :data:`MAPS`.
    """

    name: ClassVar[str] = "erasers"
    bypassed_by: ClassVar[tuple[str, ...]] = ("hooks off",)

    def layers(self, tensors: Mapping[str, Tensor]) -> Sequence[str]:
        """The cross-attentions that have an adapter."""
        return [n.removesuffix("/down.weight") for n in tensors if n.endswith("/down.weight")]

    def change(
        self,
        layer: str,
        given: Tensor,
        out: Tensor,
        tensors: Mapping[str, Tensor],
        gate: Tensor | None,
        told: Pass,
    ) -> Tensor:
        """The output, and what the adapter makes of it."""
        return out + added(layer, out, tensors)


def added(layer: str, out_RPd: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The part that the adapter of a layer adds to its output, [R, P, d]."""
    down, down_bias, up, up_bias = (tensors[f"{layer}/{name}"] for name in MAPS)
    return F.linear(F.gelu(F.linear(out_RPd, down, down_bias)), up, up_bias)


def fresh(widths: Mapping[str, int], rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors of adapters that change nothing yet: ``down`` as torch draws a linear layer, ``up`` zero.

    Args:
        widths: d of each layer.
        rank: r.
        generator: Of the draws.
    """
    made = {}
    for layer, width in widths.items():
        limit = width**-0.5
        for name, shape in (("down.weight", (rank, width)), ("down.bias", (rank,))):
            made[f"{layer}/{name}"] = (torch.rand(shape, generator=generator) * 2 - 1) * limit
        made[f"{layer}/up.weight"] = torch.zeros(width, rank)
        made[f"{layer}/up.bias"] = torch.zeros(width)
    return made
