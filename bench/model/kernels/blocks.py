"""Residual blocks whose norms and activations are one operation each; names, values and hooks stay."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

__all__ = ["FusedBlock", "can_fuse", "fuse", "fused_in", "unfuse"]

_PRECISIONS: Final = (torch.float32, torch.bfloat16, torch.float16)
_HOOKS: Final = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


class FusedBlock(ResnetBlock2D):  # type: ignore[misc]  # diffusers is not typed
    """A residual block that norms and activates in one operation, where nobody can tell but by rounding.

    It runs as its library wrote it while somebody listens to a norm or to the activation, and while
    a norm's values learn. It does so too in a compiled network, whose compiler fuses by itself.
    """

    def forward(
        self, input_tensor: Tensor, temb: Tensor | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """See diffusers: hidden states [B, C, H, W], and the embedded time [B, T] if the block has one."""
        odd = self.time_emb_proj is None and temb is not None
        if odd or torch.compiler.is_compiling() or self._is_heard() or self._learns(input_tensor):
            out: Tensor = super().forward(input_tensor, temb, *args, **kwargs)
            return out
        hidden = self.conv1(_fused(self.norm1, input_tensor))
        if self.time_emb_proj is not None:
            told = temb if self.skip_time_act else self.nonlinearity(temb)
            hidden = hidden + self.time_emb_proj(told)[:, :, None, None]
        hidden = self.conv2(self.dropout(_fused(self.norm2, hidden)))
        short = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)
        total: Tensor = short + hidden
        # To divide by one is a pass over all values for nothing.
        return total if self.output_scale_factor == 1 else total / self.output_scale_factor

    def _is_heard(self) -> bool:
        parts = (self.norm1, self.norm2, self.nonlinearity)
        return nn.modules.module._has_any_global_hook() or any(
            getattr(part, kind) for part in parts for kind in _HOOKS
        )

    def _learns(self, given: Tensor) -> bool:
        norms = (self.norm1, self.norm2)
        values = (value for norm in norms for value in (norm.weight, norm.bias))
        return given.dtype not in _PRECISIONS or (
            torch.is_grad_enabled() and any(value.requires_grad for value in values)
        )


def _fused(norm: nn.GroupNorm, x_BCHW: Tensor) -> Tensor:
    from bench.model.kernels.norm_silu import norm_silu

    return norm_silu(x_BCHW, norm.weight, norm.bias, norm.num_groups, norm.eps)


@cache
def can_fuse(kind: str) -> bool:
    """Whether the fused norm runs on a kind of device: on a GPU with Triton, or anywhere in Triton's interpreter."""
    if find_spec("triton") is None:
        return False
    return kind == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def fuse(networks: Iterable[nn.Module]) -> None:
    """Turns the blocks that it suits into :class:`FusedBlock`; nothing else of them changes."""
    for network in networks:
        for module in network.modules():
            if _suits(module):
                module.__class__ = FusedBlock


def unfuse(networks: Iterable[nn.Module]) -> None:
    """Undoes :func:`fuse`."""
    for network in networks:
        for module in network.modules():
            if type(module) is FusedBlock:
                module.__class__ = ResnetBlock2D


def fused_in(network: nn.Module) -> bool:
    """Whether a network has such blocks."""
    return any(type(module) is FusedBlock for module in network.modules())


def _suits(module: nn.Module) -> bool:
    return (
        type(module) is ResnetBlock2D
        and module.upsample is None
        and module.downsample is None
        and module.time_embedding_norm == "default"
        and type(module.nonlinearity) is nn.SiLU
        and all(type(norm) is nn.GroupNorm and norm.affine for norm in (module.norm1, module.norm2))
    )
