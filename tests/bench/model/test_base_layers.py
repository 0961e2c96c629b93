"""The names of tensors that a configuration asks for are those of diffusers' own networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from bench.model.pipeline.layers import unet_tensors, vae_tensors

DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
MIDDLE = "UNetMidBlock2DCrossAttn"
UNETS: dict[str, dict[str, Any]] = {
    "as published": {},
    "layers of their own": {"layers_per_block": [1, 2, 3, 1]},
    "deep attention": {"transformer_layers_per_block": [1, 2, 1, 3]},
    "no middle": {"mid_block_type": None},
    "two blocks": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64),
    },
}


@pytest.mark.parametrize("name", UNETS)
def test_a_unets_names(name: str) -> None:
    config: dict[str, Any] = {
        "down_block_types": DOWN, "up_block_types": UP, "mid_block_type": MIDDLE, "layers_per_block": 2,
        "transformer_layers_per_block": 1, "block_out_channels": (32, 64, 64, 96), **UNETS[name],
    }  # fmt: skip
    with torch.device("meta"):
        network = UNet2DConditionModel(cross_attention_dim=32, attention_head_dim=8, **config)
    told = set(
        unet_tensors(
            config["down_block_types"],
            config["up_block_types"],
            config["mid_block_type"],
            config["layers_per_block"],
            config["transformer_layers_per_block"],
        )
    )
    theirs = set(network.state_dict())
    assert told <= theirs
    assert {name for name in theirs - told if "conv_shortcut" not in name} == set()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("widths", [(32,), (32, 32, 64, 64)])
def test_an_autoencoders_names(widths: tuple[int, ...], layers: int) -> None:
    with torch.device("meta"):
        network = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=layers,
        )
    told, theirs = set(vae_tensors(len(widths), layers)), set(network.state_dict())
    assert told <= theirs
    known = ("conv_shortcut", "attentions", "quant_conv")
    assert {name for name in theirs - told if not any(word in name for word in known)} == set()
