"""The look that all figures share, and how they are saved: the same figure gives the same bytes.

Figures are drawn on Agg through matplotlib's objects, under its default settings whatever the user
configured, and saved without dates or versions.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.core.digest import write_atomic

__all__ = ["DPI", "INK", "MUTED", "Status", "figures_freed", "save", "stamp", "style"]

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
    # A third of the time of the usual level, for files that are a tenth larger.
    more: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}
    with style():
        figure.savefig(buffer, format=kind, dpi=figure.dpi, metadata=_METADATA[kind], **more)
    write_atomic(path, buffer.getvalue())


@contextmanager
def figures_freed() -> Iterator[Callable[[], None]]:
    """Gives a function that frees the figures that were drawn inside and are needed no more.

    A figure, its texts and its renderer refer to each other. So a report of many concepts would hold
    all of its grids, 50 MB each, until Python looks through everything for circles. This looks
    through what was made inside alone, which takes milliseconds.
    """
    gc.collect()
    gc.freeze()
    try:
        yield _collect
    finally:
        gc.unfreeze()


def _collect() -> None:
    gc.collect()


def stamp(figure: Figure, status: Status) -> None:
    """Writes across the figure what it is, unless it is final."""
    if status in _WORDS:
        mark = figure.text(0.5, 0.5, _WORDS[status], ha="center", va="center", rotation=24)
        mark.set(fontsize=64, fontweight="bold", color=INK, alpha=0.09, zorder=10, in_layout=False)
