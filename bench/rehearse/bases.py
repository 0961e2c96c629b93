"""A stand-in for a base: a pipeline of the same classes with random weights, written as diffusers writes one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from bench.mini.tokenizer import train_tokenizer
from bench.model.pipeline.inspect import BaseFiles
from bench.model.published import LENGTH, NOISE, SD14, SD21, Shape
from bench.model.random_values import random_values
from bench.rehearse.shapes import REAL, TINY, BaseFamily

__all__ = ["family_like", "family_of", "write_base", "write_words"]

_MERGES: Final = 3000
_SECOND: Final = re.compile(r"(diffusion|sd)[-_]?v?2")
"""In the names of 2.x: stable-diffusion-2-1, sd2.1, SD_v2, ..."""


def family_of(base: str) -> BaseFamily:
    """The family of a hub id or a folder, by its name: XL, 2.x, or else 1.x."""
    name = Path(base).name.lower()
    if "xl" in name:
        return "sdxl"
    return "sd2" if _SECOND.search(name) else "sd"


def family_like(base: BaseFiles) -> BaseFamily:
    """The family of a base whose files are here, by its text encoders."""
    if len(base.family.encoders) > 1:
        return "sdxl"
    wide = base.sizes.context_width == SD21.unet["cross_attention_dim"]
    return "sd2" if wide or base.prediction_type != SD14.prediction else "sd"


def write_words(folder: Path, lines: Sequence[str]) -> Any:
    """A tokenizer of CLIP's format whose tokens are the words of these lines: prompts are as long as real ones."""
    transformers_logging.disable_progress_bar()
    return train_tokenizer(lines, folder, merges=_MERGES, length=LENGTH)


def write_base(
    folder: Path, family: BaseFamily, words: Any, *, real_size: bool, prediction: str = ""
) -> Path:
    """The folder, with a pipeline in it; the same words give the same files.

    Args:
        folder: Where it is written.
        family: Of the base.
        words: Its tokenizer.
        real_size: In the published configuration, and not a tiny one.
        prediction: What the UNet predicts: ``epsilon`` or ``v_prediction``; empty: as the family's was published.
    """
    shape = (REAL if real_size else TINY)[family]
    shape = replace(shape, rows=max(shape.rows, len(words)))
    parts = {
        "unet": _made(UNet2DConditionModel, shape.unet),
        "vae": _made(AutoencoderKL, shape.vae),
        "scheduler": DDIMScheduler(
            **NOISE, prediction_type=prediction or shape.prediction, clip_sample=False
        ),
        "tokenizer": words,
    }
    if family != "sdxl":
        pipe: Any = StableDiffusionPipeline(
            **parts, text_encoder=_text(CLIPTextModel, shape, 0, words), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    else:
        pipe = StableDiffusionXLPipeline(
            **parts, tokenizer_2=words, text_encoder=_text(CLIPTextModel, shape, 0, words),
            text_encoder_2=_text(CLIPTextModelWithProjection, shape, 1, words), add_watermarker=False,
        )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder


def _made(cls: Any, fields: dict[str, Any]) -> Any:
    with torch.device("meta"):
        network = cls(**fields)
    return random_values(network, cls.__name__)


def _text(cls: Any, shape: Shape, place: int, words: Any) -> Any:
    config = CLIPTextConfig(
        **shape.texts[place], vocab_size=shape.rows, max_position_embeddings=LENGTH,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )  # fmt: skip
    with torch.device("meta"):
        network = cls(config)
    return random_values(network, cls.__name__, place)
