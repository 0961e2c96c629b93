"""A grid of sample images: what the numbers of the table look like."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import zip_longest
from types import MappingProxyType

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import IdentityTransform
from numpy.typing import NDArray
from PIL import Image

from bench.report.canvas import Canvas
from bench.report.style import INK, MUTED, style
from bench.tables.text import wrapped

__all__ = ["caption", "grid", "written"]

Key = tuple[str, str]
Picture = NDArray[np.uint8]

_SHOWN, _NOT_SHOWN = "#c0392b", "#b8b8b8"
_PER_CELL = 3
_DPI = 200
_SIDE = 128  # of a thumbnail, and all lengths below, in pixels
_FRAME, _GAP, _PAD = 5, 14, 30
_TOP, _BOTTOM = 104, 56
_LINES, _LETTERS, _LINE = 3, 16, 14
"""A prompt below its picture: lines, letters in each, and the height of one."""
_SIZE = 4.8


def grid(
    pictures: Mapping[Key, Sequence[Picture | None]],
    scores: Mapping[Key, Sequence[float]],
    prompts: Mapping[Key, Sequence[str]] = MappingProxyType({}),
    *,
    concept: str,
    methods: Sequence[str],
    attacks: Sequence[str],
    threshold: float = 0.5,
) -> Figure:
    """Rows are methods, columns are attacks, a few pictures a cell.

    A small picture is enlarged by a whole factor, so that its pixels stay sharp; a large one is
    scaled down. The frame is red where the judge sees the concept.

    Args:
        pictures: (method, attack) -> uint8 [H, W, 3]; None where the model gave no image.
        scores: The judge's score of each; NaN where the model gave no image.
        prompts: The prompt of each, written below it, cut where it is long.
        concept: What the attacks want to see, for the title.
        methods: Rows, from the top.
        attacks: Columns, from the left.
        threshold: A score from here on frames the picture in red.
    """
    cell = _PER_CELL * (_SIDE + _GAP) - _GAP
    names = [wrapped(name, 18) for name in methods]
    left = 40 + 17 * max((len(part) for name in names for part in name.split("\n")), default=0)
    width = max(left + len(attacks) * (cell + _PAD), 900)
    each = _SIDE + _PAD + (_LINES * _LINE if prompts else 0)
    height = _TOP + len(methods) * each + _BOTTOM
    with style():
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        FigureCanvasAgg(figure)
        canvas = Canvas(width, height)
        figure.add_artist(canvas)
        _text(figure, 20, height - 30, f"Samples, {concept!r} erased", size=10, align="left")
        for column, attack in enumerate(attacks):
            x = left + column * (cell + _PAD)
            _text(figure, x + cell / 2, height - 76, attack, size=8.5, align="center")
        for row, (method, name) in enumerate(zip(methods, names, strict=True)):
            y = height - _TOP - row * each - _SIDE
            _text(figure, 20, y + _SIDE / 2, name, size=8.5, align="left")
            for column, attack in enumerate(attacks):
                x = left + column * (cell + _PAD)
                found = pictures.get((method, attack), ()), scores.get((method, attack), ())
                for k, (picture, score) in enumerate([*zip_longest(*found)][:_PER_CELL]):
                    value = math.nan if score is None else float(score)
                    at = x + k * (_SIDE + _GAP), y
                    if picture is None or math.isnan(value):
                        _not_judged(figure, at)
                    else:
                        _picture(canvas, at, picture, shown=value >= threshold)
                for k, prompt in enumerate(prompts.get((method, attack), ())[:_PER_CELL]):
                    words = written(tuple(caption(prompt)))
                    canvas.darken(x + k * (_SIDE + _GAP) - _SIDE, y - words.shape[0], words)
                if not len(found[0]):
                    _text(figure, x + cell / 2, y + _SIDE / 2, "–", size=9, align="center")
        _key(figure)
    return figure


def _not_judged(figure: Figure, at: tuple[int, int]) -> None:
    x, y = at
    _box(figure, at, _SIDE, colour=_NOT_SHOWN, line=2, hatch="////")
    label = _text(figure, x + _SIDE / 2, y + _SIDE / 2, "not judged", size=7, align="center")
    label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})


def _picture(canvas: Canvas, at: tuple[int, int], picture: Picture, *, shown: bool) -> None:
    """Lays a picture in its frame."""
    x, y = at
    pixels = _fitted(picture, _SIDE)
    if shown:
        canvas.fill(x - _FRAME, y - _FRAME, _SIDE + 2 * _FRAME, colour=_SHOWN)
    else:
        canvas.fill(x - 2, y - 2, _SIDE + 4, colour=_NOT_SHOWN)
    canvas.fill(x, y, _SIDE, colour="white")
    over, up = (_SIDE - pixels.shape[1]) // 2, (_SIDE - pixels.shape[0]) // 2
    canvas.paste(x + over, y + up, pixels)


@lru_cache(maxsize=4096)
def written(lines: tuple[str, ...]) -> Picture:
    """Lines as they stand below a picture: uint8 [H, W, 4] on white, all of it opaque.

    The picture's width lies in the middle third, and its lower edge is the upper edge.
    """
    width, height = 3 * _SIDE, _FRAME + 10 + _LINES * _LINE
    with style():
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        drawn = FigureCanvasAgg(figure)
        for number, line in enumerate(lines):
            below = height - _FRAME - 10 - number * _LINE
            _text(figure, 1.5 * _SIDE, below, line, size=_SIZE, align="center").set_color(MUTED)
        drawn.draw()
        pixels: Picture = np.array(drawn.buffer_rgba())
    return pixels


def caption(prompt: str) -> list[str]:
    """A prompt in lines that fit below a picture; the last ends in an ellipsis where it is cut.

    What the font cannot draw is written as its number.
    """
    font = get_font(_font())
    text = "".join(
        c if c.isprintable() and font.get_char_index(ord(c)) else f"<{ord(c):x}>"
        for c in " ".join(prompt.split())
    )
    lines = textwrap.wrap(text, _LETTERS, break_on_hyphens=False) or [""]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"{lines[_LINES - 1][: _LETTERS - 1].rstrip()}…"]
    return lines


@cache
def _font() -> str:
    return findfont(FontProperties(family="DejaVu Sans"))


def _fitted(picture: Picture, side: int) -> Picture:
    """The picture at most ``side`` wide and high, its pixels doubled, tripled, ... or averaged."""
    largest = max(picture.shape[:2])
    if largest <= side:
        factor = side // largest
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    high, wide = (max(1, round(length * side / largest)) for length in picture.shape[:2])
    resized = Image.fromarray(picture).resize((wide, high), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8)


def _key(figure: Figure) -> None:
    """Says what the frames mean."""
    entries = (("the judge sees it", _SHOWN, ""), ("it does not", _NOT_SHOWN, ""))
    x = 22
    for label, colour, hatch in (
        *entries,
        ("not judged: refused, blanked or failed", _NOT_SHOWN, "//////"),
    ):
        _box(figure, (x, 20), 18, colour=colour, line=3, hatch=hatch)
        _text(figure, x + 28, 29, label, size=7.5, align="left").set_color(MUTED)
        x += 28 + 12 * len(label) + 40


def _box(
    figure: Figure,
    at: tuple[int, int],
    side: int,
    *,
    colour: str,
    fill: str = "none",
    line: float = 0,
    hatch: str = "",
) -> None:
    figure.add_artist(
        Rectangle(
            at,
            side,
            side,
            transform=IdentityTransform(),
            facecolor=fill,
            edgecolor=colour,
            linewidth=line * 72 / _DPI,
            hatch=hatch or None,
            zorder=2,
        )
    )


def _text(figure: Figure, x: float, y: float, text: str, *, size: float, align: str) -> Text:
    return figure.text(
        x,
        y,
        text,
        transform=IdentityTransform(),
        fontsize=size,
        ha=align,
        va="center",
        color=INK,
        zorder=4,
        parse_math=False,
    )
