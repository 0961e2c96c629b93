"""The grids of published runs, small enough to lie inside a page, and only if they are the ones that were checked."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from bench.core.digest import file_sha256
from bench.core.errors import UsageError
from bench.core.files import regular
from bench.leaderboard.entry import Entry
from bench.report.grid_names import grid_names
from bench.tables.tables import ALL

__all__ = ["Grid", "grids_of"]

_WIDE: Final = 1000
"""Pixels across, at most."""
_PIXELS: Final = 50_000_000
"""A picture with more is none that a report draws."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of samples.

    Attributes:
        run: The folder of its run.
        concept: What was erased.
        uri: The picture, WebP in a data URI.
        width: In pixels.
        height: In pixels.
    """

    run: str
    concept: str
    uri: str
    width: int
    height: int


def grids_of(entries: Sequence[Entry], runs: Path) -> list[Grid]:
    """The grids of the runs behind entries, each once.

    Args:
        entries: Of one protocol.
        runs: The folder that holds the runs.

    Raises:
        UsageError: a grid is missing, or not the one that the entry names.
    """
    found = []
    for folder, entry in {entry.run.folder: entry for entry in reversed(entries)}.items():
        concepts = dict.fromkeys(cost.concept for cost in entry.measured.costs)
        for concept in (name for name in concepts if name != ALL):
            for name in grid_names(entry.run.files, concept):
                found.append(_grid(runs / folder / name, entry, concept))
    return found


def _grid(path: Path, entry: Entry, concept: str) -> Grid:
    if file_sha256(regular(path)) != entry.run.files[path.name]:
        raise UsageError(
            f"{path}: expected the grid that its entry names, got another; run `leaderboard check`"
        )
    with Image.open(path, formats=["PNG"]) as opened:
        if opened.width * opened.height > _PIXELS:
            raise UsageError(
                f"{path}: expected a grid of at most {_PIXELS} pixels, got a larger one"
            )
        image = opened.convert("RGB")
    image.thumbnail((_WIDE, 10 * _WIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=72, method=4)
    uri = f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
    return Grid(entry.run.folder, concept, uri, image.width, image.height)
