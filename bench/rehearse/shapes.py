"""The configurations of stand-ins for bases: tiny ones, and the real ones of Stable Diffusion 1.4 and XL.

The real ones are facts of the published ``config.json`` files, where they differ from the classes' defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["NOISE", "REAL", "TINY", "Kind", "Shape"]

Kind = Literal["sd", "sdxl"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The configurations of a pipeline's networks.

    Attributes:
        unet: Of ``UNet2DConditionModel``.
        vae: Of ``AutoencoderKL``.
        texts: Of each text encoder, in order.
        rows: Of their tables of tokens, at least; a tokenizer with more words has its own number.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    texts: tuple[dict[str, Any], ...]
    rows: int = 0


NOISE: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "steps_offset": 1,
}  # fmt: skip

_TINY_UNET: Final[dict[str, Any]] = {
    "sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
}  # fmt: skip
_TINY_VAE: Final[dict[str, Any]] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16), "norm_num_groups": 8, "sample_size": 32,
}  # fmt: skip
_TINY_TEXT: Final[dict[str, Any]] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "projection_dim": 32,
}  # fmt: skip
_XL_ADDED: Final[dict[str, Any]] = {
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
}

TINY: Final[dict[Kind, Shape]] = {
    "sd": Shape(
        unet={
            **_TINY_UNET,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
        },
        vae={**_TINY_VAE, "scaling_factor": 0.18215},
        texts=({**_TINY_TEXT, "hidden_act": "quick_gelu"},),
    ),
    "sdxl": Shape(
        unet={
            **_TINY_UNET,
            **_XL_ADDED,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32 + 48,
            "attention_head_dim": [2, 4],
            "transformer_layers_per_block": [1, 2],
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 40 + 6 * 8,
        },
        vae={**_TINY_VAE, "scaling_factor": 0.13025, "force_upcast": True},
        texts=(
            {**_TINY_TEXT, "hidden_act": "quick_gelu"},
            {**_TINY_TEXT, "hidden_size": 48, "num_hidden_layers": 4, "hidden_act": "gelu",
             "projection_dim": 40},
        ),
    ),
}  # fmt: skip

_REAL_VAE: Final[dict[str, Any]] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
_CLIP_L: Final[dict[str, Any]] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "quick_gelu", "projection_dim": 768,
}  # fmt: skip

REAL: Final[dict[Kind, Shape]] = {
    "sd": Shape(
        unet={
            "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
            "cross_attention_dim": 768, "attention_head_dim": 8,
        },
        vae={**_REAL_VAE, "sample_size": 512, "scaling_factor": 0.18215},
        texts=(_CLIP_L,),
        rows=49408,
    ),
    "sdxl": Shape(
        unet={
            **_XL_ADDED,
            "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10], "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        vae={**_REAL_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        texts=(
            _CLIP_L,
            {
                "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
                "num_attention_heads": 20, "hidden_act": "gelu", "projection_dim": 1280,
            },
        ),
        rows=49408,
    ),
}  # fmt: skip
