"""The configurations of stand-ins for bases: tiny ones, and the published ones of Stable Diffusion 1.4, 2.1 and XL."""

from __future__ import annotations

from typing import Any, Final, Literal

from bench.model.published import SD14, SD21, SDXL, Shape

__all__ = ["REAL", "TINY", "BaseFamily"]

BaseFamily = Literal["sd", "sd2", "sdxl"]


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

TINY: Final[dict[BaseFamily, Shape]] = {
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
        rows=0,
    ),
    "sd2": Shape(
        unet={
            **_TINY_UNET,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        vae={**_TINY_VAE, "scaling_factor": 0.18215},
        texts=({**_TINY_TEXT, "hidden_act": "gelu"},),
        rows=0,
        prediction="v_prediction",
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
        rows=0,
    ),
}  # fmt: skip

REAL: Final[dict[BaseFamily, Shape]] = {"sd": SD14, "sd2": SD21, "sdxl": SDXL}
