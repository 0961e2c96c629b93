"""Images as bytes: what is judged is what can be stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = ["as_bytes", "as_floats", "spread", "sums", "thumbnails"]

_THUMBNAIL: Final = 128
"""The longest side of a thumbnail, in pixels: a grid shows them no larger."""


def as_bytes(images_B3HW: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [B, H, W, 3]: what is judged is what can be stored."""
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (
        (images_B3HW.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    )
    return pixels


def as_floats(pictures: NDArray[np.uint8]) -> Tensor:
    """float32 [B, 3, H, W] in [0, 1], of uint8 [B, H, W, 3]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def sums(pictures: NDArray[np.uint8], status: Sequence[str]) -> list[str]:
    """The sha256 of the pixels of each picture; empty where the status is not ``ok``."""
    both = zip(pictures, status, strict=True)
    return [hashlib.sha256(p.tobytes()).hexdigest() if s == "ok" else "" for p, s in both]


def thumbnails(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pictures, scaled down to the side of a thumbnail where they are larger."""
    height, width = pictures.shape[1:3]
    if (longest := max(height, width)) <= _THUMBNAIL:
        return pictures
    size = (round(width * _THUMBNAIL / longest), round(height * _THUMBNAIL / longest))
    small = [Image.fromarray(p).resize(size, Image.Resampling.LANCZOS) for p in pictures]
    return np.stack([np.asarray(p) for p in small]) if small else pictures


def spread(n: int, count: int) -> list[int]:
    """At most ``count`` indices spread over n: the first of every prompt set are among them."""
    count = min(n, count)
    return [i * n // count for i in range(count)]
