"""Where pixels look: the probabilities of cross-attention, as masks of concepts are made from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.core.lazy import torch
from bench.model.conditioning import Conditioning
from bench.model.families.roles import Role
from bench.model.listening import listening
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["attention_maps"]


def attention_maps(
    model: TextToImage,
    latents_BChw: Tensor,
    t: Tensor | int,
    conditioning: Conditioning,
    layers: Sequence[str] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The prediction of :meth:`TextToImage.denoise`, and how much each pixel of some layers looks at each token.

    The layers compute as ever, with the edit's weights and hooks; queries and keys are read on their
    way. Gradients pass.

    Args:
        model: Edited or not.
        latents_BChw: Noisy latents.
        t: Timestep, one for all rows or [B].
        conditioning: B rows.
        layers: Cross-attentions by name; all of them by default.

    Returns:
        The prediction, and by layer probabilities [B, heads, pixels, L] that add up to 1 over L;
        float32 or wider.
    """
    names = model.layers(Role.CROSS_ATTENTION) if layers is None else list(layers)
    kept: dict[tuple[str, str], Tensor] = {}
    listeners = {
        f"{name}.{part}": partial(_keep, kept, name, part)
        for name in names
        for part in ("to_q", "to_k")
    }
    with listening(model, listeners):
        predicted = model.denoise(latents_BChw, t, conditioning)
    maps = {}
    for name in names:
        layer: Any = model.layer(name)
        q, k = (
            kept[name, part].unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for part in ("to_q", "to_k")
        )
        wide = torch.promote_types(q.dtype, torch.float32)
        maps[name] = (q.to(wide) @ k.to(wide).transpose(-1, -2) * layer.scale).softmax(-1)
    return predicted, maps


def _keep(
    kept: dict[tuple[str, str], Tensor], name: str, part: str, module: Any, args: Any, out: Tensor
) -> None:
    kept[name, part] = out
