"""Figures reach their files whole, though these are written quicker than by the libraries."""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from fontTools.subset import load_font
from fontTools.ttLib import TTFont
from matplotlib.figure import Figure
from PIL import Image

from bench.report import style
from bench.report.png import png

_TRUETYPE = b"\0\1\0\0"


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (33, 20), (600, 3)])
def test_a_picture_comes_back_with_its_size_and_resolution(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(png(pixels, dpi=200))) as image:
        image.load()  # it checks the sums of the chunks
        assert image.mode == "RGB"
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.01)
        assert (np.asarray(image) == pixels).all()


def test_a_view_of_pixels_is_written_as_it_is_seen() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 4)).astype(np.uint8)
    seen = pixels[::-1, ::2, :3]
    with Image.open(io.BytesIO(png(seen, dpi=72))) as image:
        assert (np.asarray(image) == seen).all()


def test_a_figure_has_the_pixels_that_matplotlib_writes(tmp_path: Path) -> None:
    figure = _figure()
    style.save(figure, tmp_path / "ours.png")
    with style.style():
        figure.savefig(tmp_path / "theirs.png", dpi=figure.dpi)
    ours, theirs = (
        Image.open(tmp_path / f"{who}.png").convert("RGB") for who in ("ours", "theirs")
    )
    assert (np.asarray(ours) == np.asarray(theirs)).all()


def test_a_pdf_has_the_glyphs_and_places_that_matplotlib_writes_and_no_tables_of_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style.save(_figure(), tmp_path / "ours.pdf")
    monkeypatch.setattr(style, "_glyphs_alone", load_font)
    style.save(_figure(), tmp_path / "theirs.pdf")
    pairs = [*zip(_streams(tmp_path / "ours.pdf"), _streams(tmp_path / "theirs.pdf"), strict=True)]
    fonts = 0
    for ours, theirs in pairs:
        if not ours.startswith(_TRUETYPE):
            assert ours == theirs
            continue
        fonts += 1
        mine, whole = (TTFont(io.BytesIO(data)) for data in (ours, theirs))
        assert {"GPOS", "GSUB"} <= set(whole.keys())
        assert not {"GDEF", "GPOS", "GSUB"} & set(mine.keys())
        assert mine.getGlyphOrder() == whole.getGlyphOrder()
        assert all(mine["glyf"][n] == whole["glyf"][n] for n in mine.getGlyphOrder())
    assert fonts >= 2, "embedded, as printers want them"


def _figure() -> Figure:
    with style.style():
        figure = Figure(figsize=(4, 3), dpi=80, layout="constrained")
        axes = figure.add_subplot()
        axes.plot([1, 2, 3], [1, 4, 9])
        axes.set_title("AVATo fi ↘ ★ é", weight="bold")
    return figure


def _streams(path: Path) -> list[bytes]:
    found = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", path.read_bytes(), re.DOTALL)
    return [zlib.decompress(data) for data in found]
