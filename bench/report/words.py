"""Words and marks as pixels: matplotlib draws each once, and a grid lays it wherever it stands.

Matplotlib draws a glyph at 64ths of a pixel. So words that are moved by whole pixels are the same pixels.
Its hatching hangs on the place: a pattern as wide as the resolution repeats from the upper left corner.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray

from bench.report.style import DPI, INK, style

__all__ = ["Box", "Picture", "Word", "drawn", "hatched", "inked"]

Picture = NDArray[np.uint8]


class Word(NamedTuple):
    """A text at a place.

    Attributes:
        x: Of its left end or its middle, in pixels from the left.
        y: Of its middle, in pixels from the lower edge.
        text: Several lines are one word. Nothing in it is a formula.
        size: In points.
        align: ``left`` or ``center``.
        colour: Of the ink.
        paper: Whether a white sheet lies below it.
    """

    x: float
    y: float
    text: str
    size: float
    align: str = "left"
    colour: str = INK
    paper: bool = False


class Box(NamedTuple):
    """The outline of a square.

    Attributes:
        x: Of its left edge, in pixels.
        y: Of its lower edge.
        side: In pixels.
        colour: Of the line and the hatching.
        line: Its width in pixels.
        hatch: As matplotlib names it; empty for none.
    """

    x: float
    y: float
    side: int
    colour: str
    line: float
    hatch: str = ""


def inked(width: int, height: int, words: tuple[Word, ...]) -> Picture:
    """Words alone, uint8 [H, W]: how light the paper is, for ink without a hue."""
    grey: Picture = drawn(width, height, words)[..., 0].copy()
    return grey


@lru_cache(maxsize=512)
def hatched(box: Box, label: Word, height: int) -> Picture:
    """A box with its label, as on a figure of this height: uint8 [side + 4, side + 4, 3], two pixels around the box.

    Args:
        box: At its place on that figure.
        label: Placed from the box's lower left corner.
        height: In pixels.
    """
    left, top = DPI + box.x % DPI, DPI + (height - box.y - box.side) % DPI
    size = 3 * DPI
    at = size - top - box.side
    moved = label._replace(x=left + label.x, y=at + label.y)
    pixels = drawn(size, size, (moved,), (box._replace(x=left, y=at),))
    x, y = int(left) - 2, int(top) - 2
    return pixels[y : y + box.side + 4, x : x + box.side + 4].copy()


def drawn(width: int, height: int, words: tuple[Word, ...], boxes: tuple[Box, ...] = ()) -> Picture:
    """Words and boxes on white paper, uint8 [H, W, 3]; places are counted from the lower left corner."""
    with style():
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        canvas = FigureCanvasAgg(figure)
        for box in boxes:
            figure.add_artist(_outline(box))
        for word in words:
            _written(figure, word)
        canvas.draw()
    # The paper is opaque, and so is all on it.
    return np.array(canvas.buffer_rgba())[..., :3]


def _outline(box: Box) -> Rectangle:
    return Rectangle(
        (box.x, box.y), box.side, box.side, transform=IdentityTransform(), facecolor="none",
        edgecolor=box.colour, linewidth=box.line * 72 / DPI, hatch=box.hatch or None, zorder=2,
    )  # fmt: skip


def _written(figure: Figure, word: Word) -> Text:
    text = figure.text(
        word.x, word.y, word.text, transform=IdentityTransform(), fontsize=word.size, ha=word.align,
        va="center", color=word.colour, zorder=4, parse_math=False,
    )  # fmt: skip
    if word.paper:
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})
    return text
