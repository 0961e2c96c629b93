"""Rebuilds the miniature: every stage in order, each resumed from its checkpoint, then the export."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.mini.captions import corpus
from bench.mini.tokenizer import train_tokenizer
from bench.mini.train.clip import train_clip
from bench.mini.train.export import export
from bench.mini.train.judge import train_judge
from bench.mini.train.textenc import text_tower
from bench.mini.train.unet import train_unet
from bench.mini.train.vae import train_vae

__all__ = ["RECIPE", "Recipe", "build"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes and lengths of the stages.

    Attributes:
        length: Tokens in a prompt.
        merges: Of the tokenizer, at most.
        vae_steps: Of the autoencoder.
        text_steps: Of CLIP's text tower.
        vision_steps: Of CLIP's image tower.
        judge_steps: Of the judge.
        unet_steps: Of the denoiser.
    """

    length: int = 32
    merges: int = 800
    vae_steps: int = 900
    text_steps: int = 240
    vision_steps: int = 1800
    judge_steps: int = 1200
    unet_steps: int = 3600


RECIPE = Recipe()
"""The settings that the shipped miniature was trained with."""


def build(work: Path, folder: Path, *, seed: int, device: str, recipe: Recipe = RECIPE) -> Path:
    """Trains what is not trained yet and writes the pipeline folder.

    Args:
        work: Checkpoints; a run that was stopped goes on from here.
        folder: Where the miniature is written.
        seed: Of everything.
        device: A torch device.
        recipe: Sizes and lengths.

    Returns:
        ``folder``.
    """
    work.mkdir(parents=True, exist_ok=True)
    on = torch.device(device)
    tokenizer = train_tokenizer(
        corpus(), work / "tokenizer", merges=recipe.merges, length=recipe.length
    )
    vae: Any = train_vae(work, seed=seed, steps=recipe.vae_steps, device=on)
    clip = train_clip(
        tokenizer,
        work,
        seed=seed,
        text_steps=recipe.text_steps,
        vision_steps=recipe.vision_steps,
        device=on,
    )
    judge = train_judge(vae, work, seed=seed, steps=recipe.judge_steps, device=on)
    text_encoder = text_tower(clip).to(on)
    unet = train_unet(
        tokenizer, text_encoder, vae, work, seed=seed, steps=recipe.unet_steps, device=on
    )
    log.info("writing %s", folder)
    return export(
        folder,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        clip=clip,
        judge=judge,
    )
