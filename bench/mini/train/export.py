"""Writes the miniature as an ordinary diffusers folder, with CLIP, judge and concepts beside its parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTokenizer

from bench.core.digest import file_sha256
from bench.mini.concepts import write_concepts
from bench.mini.train.miniatures import Miniature
from bench.mini.train.reader import Reader
from bench.toolkit.judge_net import JudgeNet, save_judge

__all__ = ["export", "write_sums"]

_PIXELS = {
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "size": {"shortest_edge": 64},
    "resample": 3,
}
_DOCS = {"README.md", "SHA256SUMS", "check.json"}


def export(
    folder: Path,
    made: Miniature,
    *,
    reader: Reader,
    unet: Any,
    vae: Any,
    clip: Any,
    judge: JudgeNet,
) -> Path:
    """Writes every part in half precision, then the sums.

    Args:
        folder: Replaced if it is there; its model card is kept.
        made: Which miniature it is.
        reader: Its text encoders and tokenizers.
        unet: ``UNet2DConditionModel``.
        vae: ``AutoencoderKL``.
        clip: ``CLIPModel``, both towers.
        judge: The classifier.
    """
    card = folder / "README.md"
    text = card.read_text() if card.exists() else ""
    shutil.rmtree(folder, ignore_errors=True)
    pipe = _pipeline(made, reader, unet, vae)
    pipe.save_pretrained(folder, safe_serialization=True)
    clip.to("cpu", torch.float16).save_pretrained(folder / "clip", safe_serialization=True)
    (folder / "clip" / "preprocessor_config.json").write_text(json.dumps(_PIXELS, indent=1) + "\n")
    save_judge(judge, folder / "judge")
    write_concepts(folder)
    if text:
        card.write_text(text)
    write_sums(folder)
    return folder


def _pipeline(made: Miniature, reader: Reader, unet: Any, vae: Any) -> Any:
    name, options = made.scheduler
    places = ("", "_2")
    words, encoders = reader.tokenizers, reader.encoders
    parts = {
        "vae": vae.to("cpu", torch.float16),
        "unet": unet.to("cpu", torch.float16),
        "scheduler": getattr(diffusers, name)(**options),
        **{f"tokenizer{place}": _saved(one) for place, one in zip(places, words, strict=False)},
        **{
            f"text_encoder{place}": one.to("cpu", torch.float16)
            for place, one in zip(places, encoders, strict=False)
        },
    }
    if made.is_xl:
        return diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _saved(tokenizer: Any) -> Any:
    if isinstance(tokenizer, CLIPTokenizer):
        return tokenizer
    return CLIPTokenizer.from_pretrained(tokenizer)


def write_sums(folder: Path) -> None:
    """Writes ``SHA256SUMS`` over every file but the documentation, in ``sha256sum``'s format."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in _DOCS)
    lines = [f"{file_sha256(p)}  {p.relative_to(folder).as_posix()}" for p in files]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")
