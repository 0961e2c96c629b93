"""Images as bytes: what is judged is what can be stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_bytes", "as_floats", "spread"]


def as_bytes(images_B3HW: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [B, H, W, 3]: what is judged is what can be stored."""
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (
        (images_B3HW.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    )
    return pixels


def as_floats(pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """float32 [B, 3, H, W] in [0, 1], of uint8 [B, H, W, 3]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def spread(n: int, count: int) -> list[int]:
    """At most ``count`` indices spread over n: the first of every prompt set are among them."""
    count = min(n, count)
    return [i * n // count for i in range(count)]
