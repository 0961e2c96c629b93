"""Builds a miniature: every stage in order, each resumed from its checkpoint, then the export.

The first is built from nothing. The others take the first's tokens, autoencoder, CLIP and judge as
they are shipped, and train what is their own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import CLIPModel, CLIPTokenizer

from bench.core.errors import UsageError, unknown
from bench.core.rng import initial_values
from bench.core.shipped import clip_folder, judge_folder, model_folder
from bench.mini.captions import corpus
from bench.mini.tokenizer import train_tokenizer
from bench.mini.train.clip import train_clip
from bench.mini.train.export import export
from bench.mini.train.judge import train_judge
from bench.mini.train.miniatures import BY_NAME, Miniature
from bench.mini.train.reader import Reader, text_tower, tokenizer_with
from bench.mini.train.second import new_second, train_second
from bench.mini.train.unet import train_unet
from bench.mini.train.vae import train_vae
from bench.toolkit.judge_net import JudgeNet, load_judge

__all__ = ["RECIPE", "Parts", "Recipe", "build", "untrained"]

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
        second_steps: Of the second text encoder, where there is one.
    """

    length: int = 32
    merges: int = 800
    vae_steps: int = 900
    text_steps: int = 240
    vision_steps: int = 1800
    judge_steps: int = 1200
    unet_steps: int = 3600
    second_steps: int = 240


RECIPE = Recipe()
"""The settings that the shipped miniature was trained with."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts that the miniatures share.

    Attributes:
        tokenizer: Its padding is the end of the text.
        vae: The autoencoder.
        clip: Both towers.
        judge: The classifier.
    """

    tokenizer: Any
    vae: Any
    clip: Any
    judge: JudgeNet


def build(
    work: Path,
    folder: Path,
    *,
    seed: int,
    device: str,
    recipe: Recipe = RECIPE,
    base: str = "miniature",
) -> Path:
    """Trains what is not trained yet and writes the pipeline folder.

    Args:
        work: Checkpoints; a run that was stopped goes on from here. Every miniature but the first has a
            folder of its own in it.
        folder: Where the miniature is written.
        seed: Of everything.
        device: A torch device.
        recipe: Sizes and lengths.
        base: The name of the miniature.

    Returns:
        ``folder``.

    Raises:
        UsageError: there is no such miniature.
    """
    if base not in BY_NAME:
        raise UsageError(unknown("miniature", base, BY_NAME))
    made, on = BY_NAME[base], torch.device(device)
    first = base == next(iter(BY_NAME))
    work = work if first else work / base
    work.mkdir(parents=True, exist_ok=True)
    parts = _trained(work, seed, on, recipe) if first else _shipped()
    reader = _reader(made, parts, work, seed, on, recipe)
    unet = train_unet(
        made, reader, parts.vae.to(on), work, seed=seed, steps=recipe.unet_steps, device=on
    )
    log.info("writing %s", folder)
    return export(
        folder, made, reader=reader, unet=unet, vae=parts.vae, clip=parts.clip, judge=parts.judge
    )


def untrained(folder: Path, base: str, *, seed: int = 0) -> Path:
    """The folder of a miniature whose own networks hold random values: it runs like the trained one, and draws nothing.

    Args:
        folder: Where it is written.
        base: The name of the miniature.
        seed: Of the values.
    """
    made, parts = BY_NAME[base], _shipped()
    words = tuple(tokenizer_with(parts.tokenizer, padding) for padding in made.paddings)
    with initial_values(seed):
        second = [new_second(words[1], parts.clip.config.projection_dim)] if made.is_xl else []
        reader = Reader(words, (text_tower(parts.clip, made), *second))
        unet = made.new_unet(reader.width, reader.pooled)
    return export(
        folder, made, reader=reader, unet=unet, vae=parts.vae, clip=parts.clip, judge=parts.judge
    )


def _trained(work: Path, seed: int, on: torch.device, recipe: Recipe) -> Parts:
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
    return Parts(tokenizer, vae, clip, judge)


def _shipped() -> Parts:
    where = model_folder()
    words = CLIPTokenizer.from_pretrained(where / "tokenizer", local_files_only=True)
    vae = AutoencoderKL.from_pretrained(where / "vae", local_files_only=True)
    clip = CLIPModel.from_pretrained(clip_folder(), local_files_only=True, dtype=torch.float32)
    for network in (vae, clip):
        network.eval().requires_grad_(requires_grad=False)
    return Parts(words, vae, clip, load_judge(judge_folder()))


def _reader(
    made: Miniature, parts: Parts, work: Path, seed: int, on: torch.device, recipe: Recipe
) -> Reader:
    words = tuple(tokenizer_with(parts.tokenizer, padding) for padding in made.paddings)
    encoders = [text_tower(parts.clip, made).to(on)]
    if made.is_xl:
        second = train_second(
            words[1], parts.clip, work, seed=seed, steps=recipe.second_steps, device=on
        )
        encoders.append(second.to(on))
    return Reader(words, tuple(encoders))
