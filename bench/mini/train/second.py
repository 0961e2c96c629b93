"""The second text encoder of ``miniature-xl``: another tower, trained against the images of the CLIP that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from bench.core.rng import generator_for, initial_values
from bench.mini.captions import captions
from bench.mini.render import render
from bench.mini.scenes import Scenes, sample_scenes
from bench.mini.train.clip import contrastive_loss
from bench.mini.train.loop import Pace, fit
from bench.mini.train.words import WordLosses, shuffled

__all__ = ["new_second", "train_second"]

_POOL: Final = 12_000
_BATCH: Final = 128
_SHUFFLED: Final = 64
_CONTRASTIVE: Final = 0.3


def new_second(tokenizer: Any, projection: int) -> Any:
    """An untrained tower: narrower and deeper than the first, with OpenCLIP's activation and padding."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=projection,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train_second(
    tokenizer: Any, clip: Any, work: Path, *, seed: int, steps: int, device: torch.device
) -> Any:
    """Trains the tower with the losses on words, and contrastively against the locked image tower.

    The losses on words are taken on the penultimate states: those are what the denoiser reads.
    """
    with initial_values(seed + 4):
        tower = new_second(tokenizer, clip.config.projection_dim).to(device)
        words = WordLosses(
            tower.config.hidden_size, len(tokenizer), tokenizer.eos_token_id
        ).to(device)  # fmt: skip
    pool = sample_scenes(_POOL, generator_for(seed, "second text pool"), held_out=False)
    images = _features(clip.to(device), render(pool), device)

    def tokens(scenes: Scenes, generator: torch.Generator) -> Tensor:
        said = captions(scenes, generator, drop=0.6)
        ids: Tensor = tokenizer(said, padding="max_length", truncation=True, return_tensors="pt")[
            "input_ids"
        ]
        return _padded(ids, tokenizer.eos_token_id, tokenizer.eos_token_id)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(_POOL, (_BATCH,), generator=generator)
        ids = tokens(pool[rows], generator)
        more = shuffled(
            tokens(pool[rows[:_SHUFFLED]], generator), tokenizer.eos_token_id, generator
        )
        longest = int((ids != tokenizer.eos_token_id).sum(1).max()) + 3  # with some padding
        ids = torch.cat([ids, more])[:, :longest]
        # The losses on words know padding by the end of text; the tower meets its own padding.
        own = _padded(ids, tokenizer.eos_token_id, tokenizer.pad_token_id)
        out = tower(own.to(device), output_hidden_states=True)
        contrastive = contrastive_loss(
            images[rows].to(device), out.text_embeds[:_BATCH], clip.logit_scale.detach(), pool[rows]
        )
        loss: Tensor = _CONTRASTIVE * contrastive + words(out.hidden_states[-2], ids.to(device))
        return loss

    pace = Pace(steps=steps, lr=1.5e-3, weight_decay=0.02, ema=0.99, muon=True)
    weights = fit(
        "second text",
        {"tower": tower, "words": words},
        loss_of,
        pace,
        seed=seed,
        checkpoint=work / "second.ckpt.safetensors",
    )
    tower.load_state_dict(
        {n.removeprefix("tower."): w for n, w in weights.items() if n.startswith("tower.")},
        strict=False,
    )
    return tower.eval().requires_grad_(requires_grad=False)


def _padded(ids_BL: Tensor, end: int, padding: int) -> Tensor:
    """The ids with another padding behind the end of each text."""
    ends = ids_BL == end
    return ids_BL.masked_fill(ends.cumsum(1) - ends.long() > 0, padding)


@torch.no_grad()
def _features(clip: Any, images: Tensor, device: torch.device) -> Tensor:
    chunks = []
    for chunk in images.split(256):
        out = clip.get_image_features(pixel_values=chunk.to(device) * 2 - 1)
        chunks.append(getattr(out, "pooler_output", out).cpu())
    return torch.cat(chunks)
