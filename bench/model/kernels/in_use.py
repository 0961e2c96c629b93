"""Has networks computed by chosen kernels, and reads from them which those are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from bench.core.errors import UsageError
from bench.model.kernels.attention import attention_of, set_attention
from bench.model.kernels.blocks import can_fuse, fuse, fused_in, unfuse
from bench.model.kernels.choice import Kernels, Layout

__all__ = ["as_written", "kernels_of", "use_kernels"]

_FORMATS: Final[Mapping[Layout, torch.memory_format]] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


def use_kernels(kernels: Kernels, unet: Any, vae: Any) -> None:
    """Changes how a UNet and a VAE are computed; their parameters, names and hooks stay.

    Raises:
        UsageError: the fused norms do not run on their device.
    """
    kind = next(iter(unet.parameters())).device.type
    if kernels.norms == "fused" and not can_fuse(kind):
        raise UsageError(
            f"--kernels: fused needs a GPU and the package triton, and the device is {kind}; "
            "leave the word out"
        )
    set_attention(unet, kernels.attention)
    for network in (unet, vae):
        network.to(memory_format=_FORMATS[kernels.layout])
    (fuse if kernels.norms == "fused" else unfuse)((unet, vae))


def kernels_of(unet: Any) -> Kernels:
    """The kernels of a UNet."""
    # A convolution of one pixel is in both layouts.
    wide = next(w for w in unet.parameters() if w.ndim == 4 and w.shape[1] > 1 and w.shape[2] > 1)
    return Kernels(
        attention=attention_of(unet),
        layout="contiguous" if wide.is_contiguous() else "channels_last",
        norms="fused" if fused_in(unet) else "eager",
    )


def as_written(unet: Any, vae: Any) -> None:
    """Has copies of networks computed as their libraries do, whatever the originals use; the layout stays."""
    set_attention(unet, "torch")
    unfuse((unet, vae))
