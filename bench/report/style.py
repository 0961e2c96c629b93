"""The look that all figures share, and how they are saved: the same figure gives the same bytes.

Figures are drawn on Agg through matplotlib's objects, under its default settings whatever the user
configured, and saved without dates or versions.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.core.digest import write_atomic

__all__ = ["DPI", "INK", "MUTED", "Status", "save", "stamp", "style"]

Status: TypeAlias = Literal["final", "draft", "partial"]

DPI = 200
INK, MUTED = "#222222", "#6b6b6b"
_WORDS = {"draft": "DRAFT", "partial": "PARTIAL"}
_METADATA = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
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
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def save(figure: Figure, path: Path) -> None:
    """Writes the figure as the PNG or PDF that the path's suffix names, atomically."""
    kind = path.suffix[1:]
    if kind not in _METADATA:
        raise ValueError(f"expected a path that ends in .png or .pdf, got {path.name}")
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=_METADATA[kind])
    write_atomic(path, buffer.getvalue())


def stamp(figure: Figure, status: Status) -> None:
    """Writes across the figure what it is, unless it is final."""
    if status in _WORDS:
        mark = figure.text(0.5, 0.5, _WORDS[status], ha="center", va="center", rotation=24)
        mark.set(fontsize=64, fontweight="bold", color=INK, alpha=0.09, zorder=10, in_layout=False)
