"""The miniature's CLIP: text and image towers trained contrastively; the text tower conditions the UNet, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from bench.core.rng import generator_for, initial_values
from bench.mini.captions import captions
from bench.mini.render import render
from bench.mini.scenes import Scenes, sample_scenes
from bench.mini.train.loop import Pace, fit
from bench.mini.train.words import WordLosses, shuffled
from bench.toolkit.judge_net import Trunk

__all__ = ["contrastive_loss", "train_clip"]

_BATCH = 192
_TEXT_BATCH = 128
_SHUFFLED = 64
_POOL = 12_000
_CONTRASTIVE = 0.3


def new_clip(tokenizer: Any) -> Any:
    """An untrained CLIP for 64x64 images and the given tokenizer."""
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        "projection_dim": 64,
        "hidden_act": "quick_gelu",
        **special,
    }
    vision = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 64,
        "patch_size": 8,
        "projection_dim": 64,
        "hidden_act": "quick_gelu",
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def _labels_agree(scenes: Scenes) -> Tensor:
    """Bool [N, N]: pairs of scenes with the same attributes: not negatives of one another."""
    rows = torch.stack(list(scenes.labels.values()), dim=1)
    return (rows[:, None] == rows[None]).all(-1)


class _ConvTower(Trunk):
    """An image tower of convolutions: it tells shapes apart in a tenth of the steps that a small ViT needs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(self.width, width)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [N, width] of images in [0, 1]."""
        out: Tensor = self.projection(self.features(images))
        return out


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, scenes: Scenes) -> Tensor:
    """Symmetric cross-entropy over the batch; pairs that show the same attributes share the target."""
    logits = scale.exp().clamp(max=60) * F.normalize(image) @ F.normalize(text).T
    target = _labels_agree(scenes).float().to(logits.device)
    target = target / target.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_clip(
    tokenizer: Any,
    work: Path,
    *,
    seed: int,
    text_steps: int,
    vision_steps: int,
    device: torch.device,
) -> Any:
    """Trains the towers contrastively, one after the other.

    First comes the text tower, with the losses on its words (:mod:`bench.mini.train.words`) and
    together with a convolutional image tower, which is then thrown away. Then comes
    CLIP's own image tower (a ViT) against the locked text tower, after LiT (Zhai et al. 2022).
    Trained together from the start, the ViT told objects apart too late (20 % zero-shot after 500
    steps). And the text tower merged the names of objects that the ViT could not tell apart, which
    no denoiser could undo.
    """
    with initial_values(seed + 1):
        clip = new_clip(tokenizer).to(device)
        conv = (
            _ConvTower(clip.config.projection_dim).to(device).to(memory_format=torch.channels_last)
        )
        width = clip.config.text_config.hidden_size
        words = WordLosses(width, len(tokenizer), tokenizer.eos_token_id).to(device)
    pool = sample_scenes(_POOL, generator_for(seed, "clip pool"), held_out=False)
    images = (render(pool) * 255).byte()

    def tokens(scenes: Scenes, generator: torch.Generator) -> Tensor:
        said = captions(scenes, generator, drop=0.6)
        ids: Tensor = tokenizer(said, padding="max_length", truncation=True, return_tensors="pt")[
            "input_ids"
        ]
        return ids

    def text_loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(_POOL, (_TEXT_BATCH,), generator=generator)
        ids = tokens(pool[rows], generator)
        more = shuffled(
            tokens(pool[rows[:_SHUFFLED]], generator), tokenizer.eos_token_id, generator
        )
        longest = int((ids != tokenizer.eos_token_id).sum(1).max()) + 3  # with some padding
        ids = torch.cat([ids, more])[:, :longest].to(device)
        out = clip.text_model(input_ids=ids)
        text = clip.text_projection(out.pooler_output[:_TEXT_BATCH])
        pixels = (images[rows].float() / 255).to(device, memory_format=torch.channels_last)
        contrastive = contrastive_loss(conv(pixels), text, clip.logit_scale, pool[rows])
        loss: Tensor = _CONTRASTIVE * contrastive + words(out.last_hidden_state, ids)
        return loss

    def vision_loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(_POOL, (_BATCH,), generator=generator)
        with torch.no_grad():
            ids = tokens(pool[rows], generator).to(device)
            text = clip.get_text_features(input_ids=ids)
        out = clip.get_image_features(pixel_values=images[rows].to(device).float() / 127.5 - 1)
        return contrastive_loss(
            getattr(out, "pooler_output", out),
            getattr(text, "pooler_output", text),
            clip.logit_scale.detach(),
            pool[rows],
        )

    clip.requires_grad_(requires_grad=False)
    for part in (clip.text_model, clip.text_projection):
        part.requires_grad_(requires_grad=True)
    clip.logit_scale.requires_grad_(requires_grad=True)
    pace = Pace(steps=text_steps, lr=1.5e-3, weight_decay=0.02, ema=0.99, muon=True)
    weights = fit(
        "text",
        {"clip": clip, "conv": conv, "words": words},
        text_loss,
        pace,
        seed=seed,
        checkpoint=work / "text.ckpt.safetensors",
    )
    _take(clip, weights)
    clip.requires_grad_(requires_grad=False)
    for part in (clip.vision_model, clip.visual_projection):
        part.requires_grad_(requires_grad=True)
    pace = Pace(steps=vision_steps, lr=1.5e-3, weight_decay=0.02, ema=0.99, muon=True)
    weights = fit(
        "vision",
        {"clip": clip},
        vision_loss,
        pace,
        seed=seed,
        checkpoint=work / "vision.ckpt.safetensors",
    )
    _take(clip, weights)
    return clip.eval()


def _take(clip: Any, weights: dict[str, Tensor]) -> None:
    ours = {n.removeprefix("clip."): w for n, w in weights.items() if n.startswith("clip.")}
    clip.load_state_dict(ours, strict=False)
