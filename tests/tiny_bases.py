"""Folders with pipelines of Stable Diffusion's classes, tiny, with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from bench.core.rng import initial_values
from bench.core.shipped import clip_folder, model_folder

__all__ = ["BASES", "make_base", "narrowed", "with_settings"]

BASES: Final = ("sd2", "sdxl")
"""The families that the miniature is not of."""
_NOISE: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "steps_offset": 1, "timestep_spacing": "leading",
}  # fmt: skip


def make_base(kind: str, folder: Path) -> Path:
    """The folder, with a pipeline in it: ``sd1``, ``sd2`` or ``sdxl``; the same values every time."""
    with initial_values(18):
        pipe = {"sd1": _sd1, "sd2": _sd2, "sdxl": _sdxl}[kind]()
    pipe.save_pretrained(folder)
    if kind == "sd1":
        shutil.copytree(clip_folder(), folder / "clip")  # whose defaults are the miniature's
    return folder


def with_settings(folder: Path) -> Path:
    """The folder, with the miniature's settings of the UNet and the VAE: a base whose weights nobody reads."""
    for part in ("unet", "vae"):
        (folder / part).mkdir(exist_ok=True)
        shutil.copy(model_folder() / part / "config.json", folder / part)
    return folder


def narrowed(folder: Path) -> Path:
    """The folder, its UNet another one of random weights: narrow, with blocks of the same kinds."""
    there = UNet2DConditionModel.load_config(folder / "unet")
    levels = len(there["down_block_types"])
    fields = dict(
        block_out_channels=(16, *[32] * (levels - 1)),
        attention_head_dim=[2, *[4] * (levels - 1)],
        norm_num_groups=8,
    )
    (folder / "SHA256SUMS").unlink(missing_ok=True)  # they were of the wide one
    shutil.rmtree(folder / "unet")
    with initial_values(18):
        UNet2DConditionModel.from_config({**there, **fields}).save_pretrained(folder / "unet")
    return folder


def _tokenizer(pad: str | None = None) -> Any:
    """The miniature's; padding is the end, as OpenAI's has it, or ``!``, as OpenCLIP's has it."""
    made = CLIPTokenizer.from_pretrained(
        model_folder() / "tokenizer", local_files_only=True, model_max_length=32
    )
    if pad is not None:
        made.pad_token = pad
    return made


def _text(tokenizer: Any, **fields: Any) -> Any:
    special = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "num_attention_heads": 4}
    end = {"eos_token_id": tokenizer.eos_token_id}
    return CLIPTextConfig(**{**special, **sizes, **end, **fields})


def _vae(scaling_factor: float, **fields: Any) -> Any:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        scaling_factor=scaling_factor,
        sample_size=32,
        **fields,
    )


def _sd1() -> Any:
    # The miniature but for its UNet, which has a level less and a twentieth of the weights. A call
    # takes a third of the time: half of the miniature's is not arithmetic.
    pipe = StableDiffusionPipeline.from_pretrained(model_folder(), local_files_only=True)
    fields = dict(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=[2, 4],
        norm_num_groups=8,
        sample_size=8,
    )
    pipe.unet = UNet2DConditionModel.from_config({**pipe.unet.config, **fields})
    return pipe


def _sd2() -> Any:
    # 2.x: OpenCLIP's activation, padding and end; a number of heads per block; linear projections; v.
    tokenizer = _tokenizer("!")
    text = _text(
        tokenizer, hidden_size=64, intermediate_size=96, num_hidden_layers=3, hidden_act="gelu",
        eos_token_id=2, projection_dim=512,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=[2, 4],
        use_linear_projection=True,
        upcast_attention=True,
        norm_num_groups=8,
    )
    return StableDiffusionPipeline(
        vae=_vae(0.18215),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**_NOISE, prediction_type="v_prediction", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    tokenizers = _tokenizer(), _tokenizer("!")
    text = _text(
        tokenizers[0], hidden_size=32, intermediate_size=64, num_hidden_layers=3, projection_dim=32
    )
    text_2 = _text(
        tokenizers[1], hidden_size=48, intermediate_size=64, num_hidden_layers=4, hidden_act="gelu",
        projection_dim=40,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32 + 48,
        attention_head_dim=[2, 4],
        transformer_layers_per_block=[1, 2],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=40 + 6 * 8,
        norm_num_groups=8,
    )
    with torch.no_grad():
        # As it is made, its weights hardly look at what is added.
        unet.add_embedding.linear_2.weight *= 20
    return StableDiffusionXLPipeline(
        vae=_vae(0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text_2),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=EulerDiscreteScheduler(**_NOISE),
        add_watermarker=False,
    )
