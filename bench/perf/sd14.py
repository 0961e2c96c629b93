"""Stable Diffusion 1.4 by its shapes: the real configuration with random weights, for speed, not for pictures."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench.core.shipped import model_folder
from bench.model.batching import MicroBatch
from bench.model.choosing import settle
from bench.model.families.stable_diffusion import StableDiffusion
from bench.model.published import LENGTH, NOISE, SD14
from bench.model.random_values import random_values
from bench.model.text_to_image import TextToImage

__all__ = ["sd14"]


def sd14(
    *, device: str = "cpu", dtype: torch.dtype = torch.float32, micro_batch: int = 64
) -> TextToImage:
    """A model of the real size, its values random and the same every time, its kernels chosen as at any load.

    Its tokenizer is the miniature's at the real length: the vocabulary's table has its 49,408 rows,
    but only the miniature's words are ever looked up.

    Args:
        device: A torch device.
        dtype: Precision of all networks.
        micro_batch: Rows worked on at once.
    """
    tokenizer = CLIPTokenizer.from_pretrained(
        model_folder() / "tokenizer", local_files_only=True, model_max_length=LENGTH
    )
    config = CLIPTextConfig(
        **SD14.texts[0], vocab_size=SD14.rows, max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel(**SD14.unet),
            "vae": AutoencoderKL(**SD14.vae),
            "text_encoder": CLIPTextModel(config),
        }
    backbone = StableDiffusion(
        **{
            name: random_values(network, "sd14", name, device=device, dtype=dtype)
            for name, network in parts.items()
        },
        tokenizer=tokenizer,
        scheduler_config={**NOISE, "prediction_type": SD14.prediction},
        digest="0" * 64,
    )
    settle(backbone, device)
    return TextToImage(backbone, micro=MicroBatch(micro_batch))
