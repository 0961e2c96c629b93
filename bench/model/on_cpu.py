"""Layers that a CPU computes faster in bfloat16 than by torch's own kernels: the same, but for rounding.

torch 2.15 on two cores: the backward pass of fused attention is slower in bfloat16 than in float32,
and so is its group norm. Products of matrices are several times as fast. In float32 other kernels
gave nothing. ``make perf ARGS="-k gradient_through"`` times a step with and without. A GPU's
kernels are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CpuAttention", "Float32GroupNorm", "suit_cpu", "unsuit"]

# More keys than these: the table of scores is large. The miniature's layers have 16 to 256.
_KEYS: Final = 256


class CpuAttention:
    """Attention of a UNet: plain products in bfloat16 where there are few keys, else torch's fused kernel."""

    def __init__(self) -> None:
        self._plain, self._fused = AttnProcessor(), AttnProcessor2_0()

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """A diffusers attention processor: states [B, N, C] for states [B, N, C] and a context [B, L, D]."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        few = (
            context.device.type == "cpu"
            and context.dtype == torch.bfloat16
            and context.ndim == 3
            and context.shape[1] <= _KEYS
        )
        kernel = self._plain if few else self._fused
        out: Tensor = kernel(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        return out


class Float32GroupNorm(nn.GroupNorm):
    """A group norm that is computed in float32, whatever it is given."""

    def forward(self, input: Tensor) -> Tensor:
        """See ``torch.nn.GroupNorm``."""
        weight, bias = (None if x is None else x.float() for x in (self.weight, self.bias))
        normed = functional.group_norm(input.float(), self.num_groups, weight, bias, self.eps)
        return normed.to(input.dtype)


def suit_cpu(unet: Any, vae: Any, *text_encoders: Any) -> None:
    """Changes how networks are computed that are on a CPU in bfloat16, and no others; their parameters and names stay.

    Args:
        unet: ``UNet2DConditionModel``.
        vae: ``AutoencoderKL``.
        text_encoders: ``CLIPTextModel``, and the second of two.
    """
    weight = next(iter(unet.parameters()))
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return
    unet.set_attn_processor(CpuAttention())
    for text_encoder in text_encoders:
        text_encoder.set_attn_implementation("eager")
    _turn((unet, vae), nn.GroupNorm, Float32GroupNorm)


def unsuit(unet: Any, vae: Any, *text_encoders: Any) -> None:
    """Undoes :func:`suit_cpu`, where it changed anything: the networks are computed as their libraries do."""
    if not any(isinstance(one, CpuAttention) for one in unet.attn_processors.values()):
        return
    unet.set_attn_processor(AttnProcessor2_0())
    for text_encoder in text_encoders:
        text_encoder.set_attn_implementation("sdpa")
    _turn((unet, vae), Float32GroupNorm, nn.GroupNorm)


def _turn(networks: Iterable[nn.Module], old: type[nn.Module], new: type[nn.Module]) -> None:
    """Changes the class of modules, and nothing else of them: the parameters stay their own."""
    for network in networks:
        for module in network.modules():
            if type(module) is old:
                module.__class__ = new
