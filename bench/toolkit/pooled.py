"""The state at a text's end, which stands for the whole text: CLIP's pooled state, without any projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.lazy import torch
from bench.model.encoder import TextEncoder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["at_end", "ends"]


def ends(model: TextEncoder, ids_BL: Tensor) -> Tensor:
    """The place of the first end token of each text, int64 [B]."""
    return (ids_BL == model.end_of_text).int().argmax(1)


def at_end(model: TextEncoder, ids_BL: Tensor, embeds_BLE: Tensor | None = None) -> Tensor:
    """The state at the end token of each text [B, D]; on a base with two encoders, of both.

    Worked on in micro-batches, halved when memory runs out. Gradients flow to ``embeds_BLE``.

    Args:
        model: Reads the text.
        ids_BL: Token ids.
        embeds_BLE: Used instead of the ids' own input embeddings.
    """
    end_B = ends(model, ids_BL)

    def chunk(part: slice) -> Tensor:
        embeds = None if embeds_BLE is None else embeds_BLE[part]
        states_BLD = model.encode_ids(ids_BL[part], embeds).states_BLD
        rows = torch.arange(len(states_BLD), device=states_BLD.device)
        return states_BLD[rows, end_B[part].to(rows.device)]

    return model.micro.map(len(ids_BL), chunk)
