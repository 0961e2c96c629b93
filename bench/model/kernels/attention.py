"""Attention by a kernel that somebody chose, where it can be used; else by another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.model.kernels.choice import Attention

__all__ = ["BACKENDS", "ChosenAttention", "attention_of", "in_order", "set_attention"]

BACKENDS: Final[Mapping[str, SDPBackend]] = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_ALLOWED: Final[Mapping[str, Callable[[], bool]]] = {
    "cudnn": torch.backends.cuda.cudnn_sdp_enabled,
    "flash": torch.backends.cuda.flash_sdp_enabled,
    "efficient": torch.backends.cuda.mem_efficient_sdp_enabled,
    "math": torch.backends.cuda.math_sdp_enabled,
}
# What a chosen kernel cannot do, such as a mask or a wide head, these do.
_ELSE: Final = ("flash", "efficient", "math")


def in_order(chosen: str) -> list[SDPBackend]:
    """The kernel, and those that do what it cannot."""
    return [BACKENDS[name] for name in dict.fromkeys((chosen, *_ELSE))]


class ChosenAttention:
    """A diffusers attention processor that has another one computed by a chosen kernel.

    A processor, and no state of the process. Two bases may differ, and what is made again for a
    backward pass is made by the same kernel. Whoever has switched the kernel off, as the counter of
    FLOPs does, is obeyed.

    Attributes:
        inner: The processor that it came upon.
        chosen: The kernel, of :data:`BACKENDS`.
    """

    def __init__(self, inner: Any, chosen: str) -> None:
        self.inner, self.chosen = inner, chosen
        self._order = in_order(chosen)

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """States [B, N, C] for states [B, N, C] and a context [B, L, D]."""
        # The compiler cannot ask; and nobody counts what it compiled.
        if not torch.compiler.is_compiling() and not _ALLOWED[self.chosen]():
            return self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        with sdpa_kernel(self._order, set_priority=True):
            return self.inner(attn, hidden_states, encoder_hidden_states, *args, **kwargs)


def set_attention(unet: Any, chosen: Attention) -> None:
    """Has all attention of a UNet computed by a kernel; ``torch`` leaves it as the libraries have it."""
    before = unet.attn_processors
    inner = {
        name: one.inner if isinstance(one, ChosenAttention) else one for name, one in before.items()
    }
    if chosen != "torch":
        inner = {name: ChosenAttention(one, chosen) for name, one in inner.items()}
    elif not any(isinstance(one, ChosenAttention) for one in before.values()):
        return
    unet.set_attn_processor(inner)


def attention_of(unet: Any) -> Attention:
    """The kernel that :func:`set_attention` chose."""
    chosen = {
        one.chosen if isinstance(one, ChosenAttention) else "torch"
        for one in unet.attn_processors.values()
    }
    found = chosen.pop() if len(chosen) == 1 else "torch"
    return next(name for name in get_args(Attention) if name == found)
