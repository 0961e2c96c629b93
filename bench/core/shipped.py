"""Where the shipped miniatures and the committed results lie."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import Final

from bench.core.files import expanded

__all__ = [
    "MINIATURES",
    "clip_folder",
    "folder_of",
    "judge_folder",
    "model_folder",
    "results_folder",
]


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


def folder_of(named: str, *, ours: Path) -> Path:
    """The folder that a field of a spec names; left empty, one of the miniature's.

    Such a field is read here alone. Its default is the empty text, which is in digests.
    """
    return expanded(named or ours).resolve()


def results_folder(suite: str) -> Path | None:
    """The committed results of a shipped suite: in the checkout, or as they were installed with the package.

    The installed ones are ``table.csv`` and ``worst.csv`` alone (``data-files`` of pyproject.toml).
    """
    installed = Path(sysconfig.get_path("data")) / "share" / "tvc-bench"
    for home in (Path(__file__).parents[2], installed):
        folder = home / "results" / suite
        if (folder / "table.csv").is_file():
            return Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
    return None
