"""Where the shipped miniatures lie."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["MINIATURES", "clip_folder", "judge_folder", "model_folder"]


MINIATURES: Final = ("miniature", "miniature-v", "miniature-xl")
"""Their names as bases; the first is the default of every command."""


def model_folder(base: str = MINIATURES[0]) -> Path:
    """The diffusers folder of a miniature, whether it is there or not."""
    return Path(__file__).parents[1] / "mini" / base.replace("miniature", "model")


def judge_folder() -> Path:
    """The judge's folder."""
    return model_folder() / "judge"


def clip_folder() -> Path:
    """The CLIP's folder; its tokenizer is the pipeline's."""
    return model_folder() / "clip"
