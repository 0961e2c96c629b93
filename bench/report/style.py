"""The look that all figures share, and how they are saved: the same figure gives the same bytes.

Figures are drawn on Agg through matplotlib's objects, under its default settings whatever the user
configured, and saved without dates or versions.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias
from unittest.mock import patch

import matplotlib as mpl
import numpy as np
from fontTools import subset
from fontTools.subset import load_font
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from bench.core.digest import write_atomic
from bench.report.png import png

__all__ = ["DPI", "INK", "MUTED", "Status", "save", "stamp", "style"]

Status: TypeAlias = Literal["final", "draft", "partial"]

DPI = 200
INK, MUTED = "#222222", "#6b6b6b"
_WORDS = {"draft": "DRAFT", "partial": "PARTIAL"}
_PDF = {"CreationDate": None, "Creator": None, "Producer": None}
_LAYOUT = ("GDEF", "GPOS", "GSUB", "MATH", "kern")
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "#ececec",
    "grid.linewidth": 0.7,
    "pdf.fonttype": 42,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's default settings with the report's own; the caller's come back afterwards."""
    current: Any = mpl.rcParams
    with mpl.rc_context():
        dict.update(current, _settings())  # they were checked when they were made
        yield


@cache
def _settings() -> dict[str, Any]:
    """All settings of a figure, checked once: to check them anew for every figure takes longer than to draw some."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        current: Any = mpl.rcParams
        return dict(current)


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as the PNG or PDF that the path's suffix names, atomically."""
    match path.suffix:
        case ".png":
            data = _png(figure)
        case ".pdf":
            data = _pdf(figure)
        case _:
            raise ValueError(f"expected a path that ends in .png or .pdf, got {path.name}")
    write_atomic(path, data)


def _png(figure: Figure) -> bytes:
    canvas = FigureCanvasAgg(figure)
    with style():
        if figure.get_layout_engine() is not None:
            figure.draw_without_rendering()  # as savefig does: the layout settles
        canvas.draw()
    drawn = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
    return png(np.asarray(drawn.convert("RGB")), dpi=figure.dpi)


def _pdf(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with style(), patch.object(subset, "load_font", _glyphs_alone):
        figure.savefig(buffer, format="pdf", dpi=figure.dpi, metadata=_PDF)
    return buffer.getvalue()


def _glyphs_alone(*args: Any, **kwargs: Any) -> Any:
    """A font as matplotlib opens it to put it into a PDF, without the tables that lay out text.

    In a PDF every glyph has its place already. To read these tables and to cut them down took half
    a second per font, more than all the rest.
    """
    font = load_font(*args, **kwargs)
    for table in _LAYOUT:
        if table in font:
            del font[table]
    return font


def stamp(figure: Figure, status: Status) -> None:
    """Writes across the figure what it is, unless it is final."""
    if status in _WORDS:
        mark = figure.text(0.5, 0.5, _WORDS[status], ha="center", va="center", rotation=24)
        mark.set(fontsize=64, fontweight="bold", color=INK, alpha=0.09, zorder=10, in_layout=False)
