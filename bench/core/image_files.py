"""Images that a user gives as files."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.core.digest import file_sha256
from bench.core.errors import UsageError, in_one_line
from bench.core.files import expanded, is_folder, regular
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IMAGES", "image_paths", "images_digest", "read_image"]

IMAGES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
"""Endings of the files that are taken for images, in small letters."""
_MOST: Final = 1_000_000


def read_image(path: Path) -> Tensor:
    """The image in a file, float32 [3, H, W] in [0, 1].

    Raises:
        UsageError: it holds no image.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(regular(path)) as opened:
            pixels = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"expected an image, got {path}: {in_one_line(error)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def image_paths(folder: str | Path) -> list[Path]:
    """The images at the top of a folder, by name.

    Raises:
        UsageError: it is no folder, or has no image or too many.
    """
    where = expanded(folder)
    if not is_folder(where):
        raise UsageError(f"expected a folder of images, got {folder}, which is none")
    found = sorted(path for path in where.iterdir() if path.suffix.lower() in IMAGES)
    if not found:
        raise UsageError(
            f"expected images in {folder}, got none; {', '.join(sorted(IMAGES))} are read"
        )
    if len(found) > _MOST:
        raise UsageError(f"{folder}: expected at most {_MOST} images, got {len(found)}")
    return [regular(path) for path in found]


def images_digest(folder: str | Path) -> str:
    """sha256 of the images of a folder, whatever they are called; read once as long as none changes.

    Raises:
        UsageError: see :func:`image_paths`.
    """
    paths = image_paths(folder)
    states = [path.stat() for path in paths]
    return _digest(tuple(paths), tuple((s.st_size, s.st_mtime_ns) for s in states))


@lru_cache(maxsize=16)
def _digest(paths: tuple[Path, ...], states: tuple[tuple[int, int], ...]) -> str:
    """See :func:`images_digest`; the files' states are in the key."""
    sums = sorted(file_sha256(path) for path in paths)
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()
