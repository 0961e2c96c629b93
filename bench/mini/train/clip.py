"""The miniature's CLIP: text and image towers trained contrastively; the text tower conditions the UNet, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from bench.mini.captions import captions
from bench.mini.judge_net import Trunk
from bench.mini.render import render
from bench.mini.scenes import Scenes, sample_scenes
from bench.mini.train.loop import Schedule, fit
from bench.rng import generator_for, initial_values

__all__ = ["train_clip"]

_BATCH = 192
_POOL = 12_000


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


def _loss(image: Tensor, text: Tensor, scale: Tensor, scenes: Scenes) -> Tensor:
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

    First the text tower together with a convolutional image tower, which is then thrown away; then
    CLIP's own image tower (a ViT) against the locked text tower, after LiT (Zhai et al. 2022).
    Trained together from the start, the ViT told objects apart too late (20 % zero-shot after 500
    steps), and the text tower merged the names of objects that the ViT could not tell apart, which
    no denoiser could undo.
    """
    with initial_values(seed + 1):
        clip = new_clip(tokenizer).to(device)
        conv = (
            _ConvTower(clip.config.projection_dim).to(device).to(memory_format=torch.channels_last)
        )
    pool = sample_scenes(_POOL, generator_for(seed, "clip pool"), held_out=False)
    images = (render(pool) * 255).byte()

    def text_of(scenes: Scenes, generator: torch.Generator) -> Tensor:
        words = tokenizer(
            captions(scenes, generator, drop=0.6),
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        longest = int(words["attention_mask"].sum(1).max())
        out = clip.get_text_features(input_ids=words["input_ids"][:, :longest].to(device))
        return getattr(out, "pooler_output", out)

    def text_loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(_POOL, (_BATCH,), generator=generator)
        pixels = (images[rows].float() / 255).to(device, memory_format=torch.channels_last)
        return _loss(conv(pixels), text_of(pool[rows], generator), clip.logit_scale, pool[rows])

    def vision_loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(_POOL, (_BATCH,), generator=generator)
        with torch.no_grad():
            text = text_of(pool[rows], generator)
        out = clip.get_image_features(pixel_values=images[rows].to(device).float() / 127.5 - 1)
        return _loss(
            getattr(out, "pooler_output", out), text, clip.logit_scale.detach(), pool[rows]
        )

    clip.requires_grad_(requires_grad=False)
    for part in (clip.text_model, clip.text_projection):
        part.requires_grad_(requires_grad=True)
    clip.logit_scale.requires_grad_(requires_grad=True)
    schedule = Schedule(steps=text_steps, lr=1.5e-3, weight_decay=0.02, ema=0.99, muon=True)
    weights = fit(
        "text",
        {"clip": clip, "conv": conv},
        text_loss,
        schedule,
        seed=seed,
        checkpoint=work / "text.ckpt.safetensors",
    )
    _take(clip, weights)
    clip.requires_grad_(requires_grad=False)
    for part in (clip.vision_model, clip.visual_projection):
        part.requires_grad_(requires_grad=True)
    schedule = Schedule(steps=vision_steps, lr=1.5e-3, weight_decay=0.02, ema=0.99, muon=True)
    weights = fit(
        "vision",
        {"clip": clip},
        vision_loss,
        schedule,
        seed=seed,
        checkpoint=work / "vision.ckpt.safetensors",
    )
    _take(clip, weights)
    return clip.eval()


def _take(clip: Any, weights: dict[str, Tensor]) -> None:
    ours = {n.removeprefix("clip."): w for n, w in weights.items() if n.startswith("clip.")}
    clip.load_state_dict(ours, strict=False)
