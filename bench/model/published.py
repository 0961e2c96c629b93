"""The published configurations of Stable Diffusion 1.4, 2.1 and XL: for networks of the real size without weights.

Facts of their ``config.json`` files, where they differ from the defaults of diffusers' and transformers' classes,
and some that do not, for the reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["LENGTH", "NOISE", "SD14", "SD21", "SDXL", "Shape"]

LENGTH: Final = 77
"""Tokens of a prompt, the special ones included."""
NOISE: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "steps_offset": 1,
}  # fmt: skip
"""The noise schedule of them all."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The configurations of a pipeline's networks.

    Attributes:
        unet: Of ``UNet2DConditionModel``.
        vae: Of ``AutoencoderKL``.
        texts: Of each text encoder, in order.
        rows: Of their tables of tokens.
        prediction: What the UNet predicts.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    texts: tuple[dict[str, Any], ...]
    rows: int = 49408
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"


_VAE: Final[dict[str, Any]] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
_CLIP_L: Final[dict[str, Any]] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "quick_gelu", "projection_dim": 768,
}  # fmt: skip

SD14: Final = Shape(
    unet={
        "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
        "cross_attention_dim": 768, "attention_head_dim": 8,
    },
    vae={**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
    texts=(_CLIP_L,),
)  # fmt: skip
SD21: Final = Shape(
    unet={
        "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True, "upcast_attention": True, "dual_cross_attention": False,
    },
    vae={**_VAE, "sample_size": 768, "scaling_factor": 0.18215},
    texts=(
        {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
            "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512,
        },
    ),
    prediction="v_prediction",
)  # fmt: skip
SDXL: Final = Shape(
    unet={
        "addition_embed_type": "text_time", "use_linear_projection": True,
        "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10), "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    vae={**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    texts=(
        _CLIP_L,
        {
            "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
            "num_attention_heads": 20, "hidden_act": "gelu", "projection_dim": 1280,
        },
    ),
)  # fmt: skip
