"""Pixels that are laid on a figure as they are: pictures, frames, and words that stand often.

Matplotlib resamples every picture and lays out every word anew. A grid of hundreds of pictures has few
different captions, so each is drawn once and copied; the pixels are those that matplotlib would draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import to_rgba
from numpy.typing import NDArray

__all__ = ["Canvas"]

_WHITE = 255
_DEPTH = 4  # red, green, blue and how opaque: as Agg has them, so that a row is copied at once


class Canvas(Artist):
    """A white layer of a figure that is drawn on Agg, of the figure's own size.

    It hides what was drawn before it.

    Args:
        width: In pixels.
        height: In pixels; places are counted from the lower left corner, as on the figure.
    """

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.set_zorder(1.5)  # over the background, below whatever is written
        self._pixels = np.full((height, width, _DEPTH), _WHITE, np.uint8)

    def fill(self, x: int, y: int, side: int, *, colour: str) -> None:
        """Fills a square."""
        self._rows(y, side)[:, x : x + side] = np.round(np.array(to_rgba(colour)) * _WHITE)

    def paste(self, x: int, y: int, pixels: NDArray[np.uint8]) -> None:
        """Lays pixels, uint8 [H, W, 3], with their lower left corner at a place."""
        high, wide = pixels.shape[:2]
        self._rows(y, high)[:, x : x + wide, :3] = pixels

    def darken(self, x: int, y: int, pixels: NDArray[np.uint8]) -> None:
        """Lays dark words on white, uint8 [H, W, 4], without hiding what is there.

        What lies beyond an edge is cut off.
        """
        high, wide = pixels.shape[:2]
        left, right = max(x, 0), min(x + wide, self._pixels.shape[1])
        there = self._rows(y, high)[:, left:right]
        np.minimum(there, pixels[:, left - x : right - x], out=there)

    def draw(self, renderer: Any) -> None:
        """Copies the layer onto the figure."""
        np.asarray(renderer.buffer_rgba())[...] = self._pixels

    def _rows(self, y: int, high: int) -> NDArray[np.uint8]:
        top = len(self._pixels) - y - high
        return self._pixels[top : top + high]
