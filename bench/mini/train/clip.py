"""The miniature's CLIP: text and image towers trained contrastively; the text tower conditions the UNet, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from bench.mini.captions import captions
from bench.mini.render import render
from bench.mini.scenes import Scenes, sample_scenes
from bench.mini.train.loop import Schedule, fit
from bench.rng import generator_for

__all__ = ["train_clip"]

_BATCH = 128
_POOL = 24_000


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
    """bool [N, N]: pairs of scenes with the same attributes: not negatives of one another."""
    rows = torch.stack(list(scenes.labels.values()), dim=1)
    return (rows[:, None] == rows[None]).all(-1)


def train_clip(tokenizer: Any, work: Path, *, seed: int, steps: int, device: torch.device) -> Any:
    """Symmetric cross-entropy over the batch; pairs that show the same attributes share the target."""
    torch.manual_seed(seed + 1)
    clip = new_clip(tokenizer).to(device)
    pool = sample_scenes(_POOL, generator_for(seed, "clip pool"), held_out=False)
    images = (render(pool) * 255).byte()

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(_POOL, (_BATCH,), generator=generator)
        scenes = pool[rows]
        words = tokenizer(
            captions(scenes, generator, drop=0.6), padding="max_length", truncation=True, return_tensors="pt"
        )
        longest = int(words["attention_mask"].sum(1).max())
        text = clip.get_text_features(input_ids=words["input_ids"][:, :longest].to(device))
        pixels = images[rows].to(device).float() / 127.5 - 1
        image = clip.get_image_features(pixel_values=pixels)
        text, image = getattr(text, "pooler_output", text), getattr(image, "pooler_output", image)
        logits = clip.logit_scale.exp().clamp(max=60) * F.normalize(image) @ F.normalize(text).T
        target = _labels_agree(scenes).float().to(device)
        target = target / target.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    schedule = Schedule(steps=steps, lr=1e-3, weight_decay=0.05, ema=0.99, muon=True)
    weights = fit("clip", {"clip": clip}, loss_of, schedule, seed=seed, checkpoint=work / "clip.ckpt.safetensors")
    clip.load_state_dict({n.removeprefix("clip."): w for n, w in weights.items()}, strict=False)
    return clip.eval()
