"""A white sheet on which a grid is laid pixel by pixel: pictures, frames, words."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from bench.report.png import png
from bench.report.style import DPI

__all__ = ["Sheet"]

_WHITE = 255
_DEPTH = 3


class Sheet:
    """Pixels; places are counted from the lower left corner, and of what is laid there from its own.

    Args:
        width: In pixels.
        height: In pixels.

    Attributes:
        pixels: uint8 [H, W, 3].
    """

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.full((height, width, _DEPTH), _WHITE, np.uint8)

    def fill(self, x: int, y: int, side: int, *, colour: str) -> None:
        """Fills a square."""
        self.paste(x, y, _square(colour, side))

    def paste(self, x: int, y: int, pixels: NDArray[np.uint8]) -> None:
        """Lays pixels, uint8 [H, W, 3], over what is there."""
        high, wide = pixels.shape[:2]
        self._rows(y, high)[:, x : x + wide] = pixels

    def darken(self, x: int, y: int, ink: NDArray[np.uint8]) -> None:
        """Lays dark words on white, uint8 [H, W], without hiding what is there.

        What lies beyond an edge is cut off.
        """
        high, wide = ink.shape
        left, right = max(x, 0), min(x + wide, self.pixels.shape[1])
        # As one long row of bytes: three at a time, numpy takes ten times as long.
        flat = self._rows(y, high).reshape(high, -1)[:, _DEPTH * left : _DEPTH * right]
        seen = ink[:, left - x : right - x].repeat(_DEPTH, axis=1)
        np.minimum(flat, seen, out=flat)

    def png(self) -> bytes:
        """The sheet as a file."""
        return png(self.pixels, dpi=DPI)

    def _rows(self, y: int, high: int) -> NDArray[np.uint8]:
        top = len(self.pixels) - y - high
        return self.pixels[top : top + high]


@lru_cache(maxsize=16)
def _square(colour: str, side: int) -> NDArray[np.uint8]:
    """An even square: to copy its rows is much quicker than to fill in each pixel."""
    even = np.empty((side, side, _DEPTH), np.uint8)
    even[...] = np.round(np.array(to_rgb(colour)) * _WHITE)
    even.setflags(write=False)
    return even
