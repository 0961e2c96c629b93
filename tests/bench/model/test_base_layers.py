"""The libraries' own networks have what a configuration asks for: options, names and shapes of tensors."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from pydantic import BaseModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bench.core.headers import TensorInfo
from bench.model.pipeline.configs import SchedulerConfig, TextConfig, UNetConfig, VaeConfig
from bench.model.pipeline.layers import in_new_words, text_tensors, unet_tensors, vae_tensors

DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
MIDDLE = "UNetMidBlock2DCrossAttn"
UNETS: dict[str, dict[str, Any]] = {
    "as published": {},
    "layers of their own": {"layers_per_block": [1, 2, 3, 1]},
    "deep attention": {"transformer_layers_per_block": [1, 2, 1, 3]},
    "linear projections": {"use_linear_projection": True, "conv_in_kernel": 5},
    "no middle": {"mid_block_type": None},
    "two blocks": {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [32, 64],
    },
    "told sizes": {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    },
}  # fmt: skip


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@pytest.mark.parametrize("name", UNETS)
def test_a_unets_tensors(name: str) -> None:
    config: dict[str, Any] = {
        "down_block_types": DOWN, "up_block_types": UP, "mid_block_type": MIDDLE, "sample_size": 16,
        "block_out_channels": [32, 64, 64, 96], "cross_attention_dim": 32, **UNETS[name],
    }  # fmt: skip
    with torch.device("meta"):
        network = UNet2DConditionModel(**config)
    assert dict(unet_tensors(UNetConfig(**config))) == shapes(network)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("widths", [[32], [32, 32, 64, 96]])
@pytest.mark.parametrize("rest", [True, False])
def test_an_autoencoders_tensors(widths: list[int], layers: int, rest: bool) -> None:
    config: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": layers,
        "mid_block_add_attention": rest,
        "use_quant_conv": rest,
        "use_post_quant_conv": rest,
    }
    with torch.device("meta"):
        network = AutoencoderKL(**config)
    assert dict(vae_tensors(VaeConfig(**config))) == shapes(network)


@pytest.mark.parametrize("projected", [True, False])
def test_a_text_encoders_tensors(projected: bool) -> None:
    fields: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "vocab_size": 100,
    }
    kind: Any = CLIPTextModelWithProjection if projected else CLIPTextModel
    with torch.device("meta"):
        network = kind(CLIPTextConfig(**fields, num_attention_heads=4, projection_dim=24))
    told = dict(text_tensors(TextConfig(**fields, projection_dim=24), projected))
    assert told == {k.removeprefix("text_model."): v for k, v in shapes(network).items()}


def test_an_autoencoder_of_2022_has_its_attention_by_the_new_names() -> None:
    tensor = TensorInfo("F16", (4,), 0, 8)
    old = {f"mid_block.attentions.0.{name}.bias": tensor for name in ("query", "proj_attn")}
    assert list(in_new_words(old)) == [
        f"mid_block.attentions.0.{name}.bias" for name in ("to_q", "to_out.0")
    ]


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        (UNet2DConditionModel, UNetConfig),
        (AutoencoderKL, VaeConfig),
        (DDIMScheduler, SchedulerConfig),
        (CLIPTextConfig, TextConfig),
    ],
)
def test_every_option_of_a_class_is_checked(kind: Any, ours: type[BaseModel]) -> None:
    """A version of a library with another option, or another default, fails here."""
    if kind is CLIPTextConfig:
        theirs = {key: getattr(kind(), key) for key in kind.__annotations__}
        required: tuple[str, ...] = ()
    else:
        options = inspect.signature(kind.__init__).parameters.values()
        theirs = {one.name: one.default for one in options if one.name != "self"}
        required = ("sample_size",) if kind is UNet2DConditionModel else ()
    assert set(theirs) <= set(ours.model_fields)
    told = {key: ours.model_fields[key].default for key in theirs if key not in required}
    as_json = json.loads(json.dumps({key: theirs[key] for key in told}))
    assert told == as_json
