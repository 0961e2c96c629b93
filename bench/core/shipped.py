"""Where the shipped miniature lies."""

from __future__ import annotations

from pathlib import Path

__all__ = ["clip_folder", "judge_folder", "model_folder"]


def model_folder() -> Path:
    """The diffusers folder."""
    return Path(__file__).parents[1] / "mini" / "model"


def judge_folder() -> Path:
    """The judge's folder."""
    return model_folder() / "judge"


def clip_folder() -> Path:
    """The CLIP's folder; its tokenizer is the pipeline's."""
    return model_folder() / "clip"
