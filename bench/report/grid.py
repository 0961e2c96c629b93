"""A grid of sample images: what the numbers of the table look like."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import islice, zip_longest
from types import MappingProxyType

import numpy as np
from matplotlib.font_manager import FontProperties, findfont, get_font
from PIL import Image, ImageColor, ImageDraw
from PIL.ImageFont import FreeTypeFont, Layout, truetype

from bench.report.canvas import Sheet
from bench.report.style import DPI, MUTED
from bench.report.words import Box, Picture, Word, drawn, hatched, inked
from bench.tables.text import wrapped

__all__ = ["Key", "Picture", "caption", "grid", "written"]

Key = tuple[str, str]

_SHOWN, _NOT_SHOWN = "#c0392b", "#b8b8b8"
_PER_CELL = 3
_SIDE = 128  # of a thumbnail, and all lengths below, in pixels
_FRAME, _GAP, _PAD = 5, 14, 30
_TOP, _BOTTOM = 104, 56
_HEADS, _KEY = 40, 1100
"""The height of the strip with the names of the attacks, and the width of what the frames mean."""
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
) -> Sheet:
    """Rows are methods, columns are attacks, a few pictures per cell.

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
    sheet = Sheet(width, height)
    sheet.paste(0, 0, _meanings(min(width, _KEY), height % DPI))
    for row, method in enumerate(methods):
        y = height - _TOP - row * each - _SIDE
        for column, attack in enumerate(attacks):
            x = left + column * (cell + _PAD)
            found = pictures.get((method, attack), ()), scores.get((method, attack), ())
            for k, (picture, score) in enumerate(islice(zip_longest(*found), _PER_CELL)):
                value = math.nan if score is None else float(score)
                at = x + k * (_SIDE + _GAP), y
                if picture is None or math.isnan(value):
                    sheet.paste(at[0] - 2, y - 2, _not_judged(at, height))
                else:
                    _picture(sheet, at, picture, shown=value >= threshold)
            for k, prompt in enumerate(prompts.get((method, attack), ())[:_PER_CELL]):
                ink = _below(prompt)
                middle = x + k * (_SIDE + _GAP) + _SIDE // 2
                sheet.darken(middle - ink.shape[1] // 2, y - len(ink), ink)
            if not len(found[0]):
                dash = _dash()
                sheet.darken(x + (cell - len(dash)) // 2, y + (_SIDE - len(dash)) // 2, dash)
    title = inked(width, 60, (Word(20, 30, f"Samples, {concept!r} erased", 10),))
    sheet.darken(0, height - 60, title)
    sheet.darken(0, height - 76 - _HEADS // 2, _heads(tuple(attacks), left, width))
    sheet.darken(0, 0, _names(tuple(names), min(2 * left, width), height, each))
    return sheet


@lru_cache(maxsize=8)
def _heads(attacks: tuple[str, ...], left: int, width: int) -> Picture:
    """The names of the attacks as they stand over their columns, all on one strip: long ones meet."""
    cell = _PER_CELL * (_SIDE + _GAP) - _GAP
    middle = left + cell / 2
    words = (
        Word(middle + column * (cell + _PAD), _HEADS / 2, attack, 8.5, "center")
        for column, attack in enumerate(attacks)
    )
    return inked(width, _HEADS, tuple(words))


@lru_cache(maxsize=8)
def _names(names: tuple[str, ...], width: int, height: int, each: int) -> Picture:
    """The names of the methods as they stand beside their rows, ``each`` high."""
    words = (
        Word(20, height - _TOP - row * each - _SIDE / 2, name, 8.5)
        for row, name in enumerate(names)
    )
    return inked(width, height, tuple(words))


@cache
def _dash() -> Picture:
    """Text for a cell without pictures."""
    return inked(40, 40, (Word(20, 20, "–", 9, "center"),))


def _not_judged(at: tuple[int, int], height: int) -> Picture:
    """Text in place of a picture, on a figure of this height."""
    label = Word(_SIDE / 2, _SIDE / 2, "not judged", 7, "center", paper=True)
    x, y = at
    # The hatching hangs on where the box is from the upper left corner, and on nothing else.
    box = Box(x % DPI, y % DPI, _SIDE, _NOT_SHOWN, 2, "////")
    return hatched(box, label, height % DPI)


def _picture(sheet: Sheet, at: tuple[int, int], picture: Picture, *, shown: bool) -> None:
    """Lays a picture in its frame."""
    x, y = at
    pixels = _fitted(picture, _SIDE)
    if shown:
        sheet.fill(x - _FRAME, y - _FRAME, _SIDE + 2 * _FRAME, colour=_SHOWN)
    else:
        sheet.fill(x - 2, y - 2, _SIDE + 4, colour=_NOT_SHOWN)
    if pixels.shape[:2] != (_SIDE, _SIDE):
        sheet.fill(x, y, _SIDE, colour="white")
    over, up = (_SIDE - pixels.shape[1]) // 2, (_SIDE - pixels.shape[0]) // 2
    sheet.paste(x + over, y + up, pixels)


@lru_cache(maxsize=4096)
def _below(prompt: str) -> Picture:
    """A prompt as it stands below its picture."""
    return written(tuple(caption(prompt)))


def written(lines: tuple[str, ...]) -> Picture:
    """Lines as they stand below a picture, its middle in theirs, on white: uint8 [H, W].

    Their upper edge is the picture's lower one. Pillow draws them, as searched prompts are all different:
    matplotlib takes twenty times as long for the same letters.
    """
    font, ink = _letters(), ImageColor.getcolor(MUTED, "L")
    wide = 2 * (1 + max(math.ceil(font.getlength(line) / 2) for line in lines))
    image = Image.new("L", (wide, _FRAME + 10 + _LINES * _LINE), "white")
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        pen.text((wide / 2, _FRAME + 10 + number * _LINE), line, ink, font, anchor="mm")
    return np.asarray(image)


@cache
def _letters() -> FreeTypeFont:
    """The font of prompts. Letters are set one after the other, whatever Pillow was built with."""
    return truetype(_font(), _SIZE * DPI / 72, layout_engine=Layout.BASIC)


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
        return picture.repeat(factor, axis=1).repeat(factor, axis=0)
    high, wide = (max(1, round(length * side / largest)) for length in picture.shape[:2])
    resized = Image.fromarray(picture).resize((wide, high), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8)


@lru_cache(maxsize=8)
def _meanings(width: int, phase: int) -> Picture:
    """The lower strip: what the frames mean.

    Args:
        width: In pixels.
        phase: What the height of the whole leaves over whole patterns of hatching.
    """
    entries = (("the judge sees it", _SHOWN, ""), ("it does not", _NOT_SHOWN, ""))
    boxes, words, x = [], [], 22
    for label, colour, hatch in (
        *entries,
        ("not judged: refused, blanked or failed", _NOT_SHOWN, "//////"),
    ):
        boxes.append(Box(x, 20, 18, colour, 3, hatch))
        words.append(Word(x + 28, 29, label, 7.5, "left", MUTED))
        x += 28 + 12 * len(label) + 40
    return drawn(width, DPI + phase, tuple(words), tuple(boxes))[-_BOTTOM:].copy()
