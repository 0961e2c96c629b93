"""Stable Diffusion 1.4 by its shapes: the real configuration with random weights, for speed, not for pictures."""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench.core.rng import generator_for
from bench.core.shipped import model_folder
from bench.model.batching import MicroBatch
from bench.model.families.stable_diffusion import StableDiffusion
from bench.model.text_to_image import TextToImage

__all__ = ["sd14"]

# The configurations of CompVis/stable-diffusion-v1-4 where they differ from the classes' defaults.
_UNET: Final[dict[str, Any]] = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
    "attention_head_dim": 8,
}  # fmt: skip
_VAE: Final[dict[str, Any]] = {
    "sample_size": 512, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "latent_channels": 4, "scaling_factor": 0.18215, "norm_num_groups": 32,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
_TEXT: Final[dict[str, Any]] = {
    "vocab_size": 49408, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
    "projection_dim": 768,
}  # fmt: skip
_SCHEDULE: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "prediction_type": "epsilon",
}  # fmt: skip


def sd14(
    *, device: str = "cpu", dtype: torch.dtype = torch.float32, micro_batch: int = 64
) -> TextToImage:
    """A model of the real size, its values random and the same every time.

    Its tokenizer is the miniature's at the real length: the vocabulary's table has its 49,408 rows,
    but only the miniature's words are ever looked up.

    Args:
        device: A torch device.
        dtype: Precision of all networks.
        micro_batch: Rows worked on at once.
    """
    tokenizer = CLIPTokenizer.from_pretrained(
        model_folder() / "tokenizer", local_files_only=True, model_max_length=_TEXT["max_position_embeddings"]
    )  # fmt: skip
    special = {
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    with torch.device("meta"):
        unet = UNet2DConditionModel(**_UNET)
        vae = AutoencoderKL(**_VAE)
        text = CLIPTextModel(CLIPTextConfig(**_TEXT, **special))
    # A prime number of them, so that rows differ.
    values = torch.randn(1_000_003, generator=generator_for("sd14")).to(device, dtype)
    unet, vae, text = (_filled(module, values) for module in (unet, vae, text))
    for module in text.modules():
        if isinstance(ids := getattr(module, "position_ids", None), Tensor):
            ids.copy_(torch.arange(ids.shape[-1]).expand_as(ids))
    for module in (unet, vae):  # as a loaded pipeline
        module.to(memory_format=torch.channels_last)
    backbone = StableDiffusion(
        tokenizer=tokenizer,
        text_encoder=text,
        unet=unet,
        vae=vae,
        scheduler_config=_SCHEDULE,
        digest="0" * 64,
    )
    return TextToImage(backbone, micro=MicroBatch(micro_batch))


def _filled(module: Any, values: Tensor) -> Any:
    """The module, which was made without memory, with small values; the norms do nothing."""
    module.to(dtype=values.dtype).to_empty(device=values.device)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim == 1:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            flat = weight.view(-1)
            for at in range(0, len(flat), len(values)):
                flat[at : at + len(values)] = values[: len(flat) - at]
            weight.mul_((2 / weight[0].numel()) ** 0.5)
    return module
