"""The published configurations of Stable Diffusion 2.1 and XL: they pass inspection, and their networks fit together.

The networks are on torch's meta device: they have shapes and no values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from bench.core.headers import TensorInfo
from bench.core.shipped import model_folder
from bench.interfaces import Role
from bench.model.families.latent_unet import LatentUNet
from bench.model.families.sdxl import StableDiffusionXL
from bench.model.families.stable_diffusion import StableDiffusion
from bench.model.pipeline.sizes import check_sizes
from bench.model.text_to_image import TextToImage

# As published, where they differ from the defaults of diffusers' and transformers' classes.
_TEXT: dict[str, Any] = {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 2,
                         "bos_token_id": 0, "pad_token_id": 1}  # fmt: skip
_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    family: type[LatentUNet]
    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    text_encoder_2: dict[str, Any] | None
    side: int
    context: int
    looking: int
    prediction: str


PUBLISHED = {
    "2.1": Published(
        StableDiffusion,
        {
            "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True, "upcast_attention": True, "dual_cross_attention": False,
        },
        {**_VAE, "sample_size": 768},
        {
            **_TEXT, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
            "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512,
        },
        None,
        side=768,
        context=1024,
        looking=2 * 16,
        prediction="v_prediction",
    ),
    "XL": Published(
        StableDiffusionXL,
        {
            "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True, "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        },
        {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        {
            **_TEXT, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "projection_dim": 768,
        },
        {
            **_TEXT, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
            "num_attention_heads": 20, "hidden_act": "gelu", "projection_dim": 1280,
        },
        side=1024,
        context=2048,
        looking=2 * 70,
        prediction="epsilon",
    ),
}  # fmt: skip


def networks(of: Published) -> dict[str, Any]:
    with torch.device("meta"):
        made = {
            "unet": UNet2DConditionModel(**of.unet),
            "vae": AutoencoderKL(**of.vae),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**of.text_encoder)),
        }
        if of.text_encoder_2 is not None:
            config = CLIPTextConfig(**of.text_encoder_2)
            made["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return made


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_passes_inspection(name: str, tmp_path: Path) -> None:
    of = PUBLISHED[name]
    parts = networks(of)
    for part in parts:
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(getattr(of, part)))
    tensors = {
        part: {n: TensorInfo("F16", tuple(w.shape), 0, 0) for n, w in network.state_dict().items()}
        for part, network in parts.items()
    }
    sizes = check_sizes(tmp_path, tensors, of.family.encoders)
    assert (sizes.image_side, sizes.context_width) == (of.side, of.context)
    assert (sizes.context_length, sizes.words) == (77, 49408)


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_networks_fit_together(name: str) -> None:
    of = PUBLISHED[name]
    words = CLIPTokenizer.from_pretrained(
        model_folder() / "tokenizer", local_files_only=True, model_max_length=77
    )
    xl = {} if of.text_encoder_2 is None else {"tokenizer_2": words}
    schedule = {"num_train_timesteps": 1000, "prediction_type": of.prediction}
    backbone = of.family(
        **networks(of), tokenizer=words, scheduler_config=schedule, digest="0" * 64, **xl
    )
    model = TextToImage(backbone)
    assert len(model.having(Role.TEXT_KEYS_AND_VALUES)) == of.looking
    assert len(model.layers(Role.CROSS_ATTENTION)) == of.looking // 2
    told = model.encode(["a red star", "a fish"])
    assert told.states_BLD.shape == (2, 77, of.context)
    assert (told.pooled_BD is not None) == (of.text_encoder_2 is not None)
    noisy = torch.zeros(2, 4, 32, 32, device="meta")
    contexts = model.guidance.contexts(model, told)
    assert model.branches(noisy, 500, contexts).shape == (2, 2, 4, 32, 32)
    assert model.latent_shape[1] * backbone.latent_scale == of.side
    assert model.embed(model.tokenize(["a"])).shape[-1] == of.context
