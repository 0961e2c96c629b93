"""The surroundings of a cell that is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.digest import DamagedError
from bench.interfaces import Progress, registry
from bench.model.text_to_image import TextToImage
from bench.run.cells import Cell, OfMethod, SampleCell
from bench.run.contents import read_rows
from bench.run.payload import PAYLOAD, read_images, write_images
from bench.run.plan import Plan
from bench.run.store import Entry, Store

__all__ = ["Workspace", "Written"]

Written = tuple[dict[str, Any], Callable[[Path], None]]
"""The record of a cell, and what writes its files into a folder."""


@dataclass(slots=True, eq=False)
class Workspace:
    """The surroundings of a cell: plan, store, base, progress.

    Attributes:
        plan: The suite's plan.
        store: Where parents are read from.
        base: The unedited model.
        progress: Told of long work.
    """

    plan: Plan
    store: Store
    base: TextToImage
    progress: Progress
    _edited: tuple[str, TextToImage] | None = None
    _held: dict[str, tuple[str, NDArray[np.uint8]]] = field(default_factory=dict)

    def parent(self, cell: Cell, kind: str, role: str = "") -> Entry:
        """The entry of a parent.

        Args:
            cell: Its child.
            kind: The parent's.
            role: What it is to the child; by default, its kind.

        Raises:
            LookupError: it is not there, because it failed.
        """
        digest = cell.parents[role or kind]
        entry = self.store.find(kind, digest)
        if entry is None:
            raise LookupError(
                f"its {kind} {digest[:12]} is missing: it failed, or was set aside as damaged"
            )
        return entry

    def edited(self, cell: OfMethod) -> TextToImage:
        """The edited model of the cell; the last one is kept, since cells of an edit come together."""
        digest = cell.parents["edit"]
        if self._edited is None or self._edited[0] != digest:
            entry = self.parent(cell, "edit")
            registry.load()  # its guidance and filters may be a plug-in's
            self._edited = (digest, self.base.load_edit(entry.path))
        return self._edited[1]

    def keep(self, cell: SampleCell, images: NDArray[np.uint8], sums: Sequence[str]) -> None:
        """Keeps the images of a cell for its scores, in the store and until the next ones in memory.

        Args:
            cell: Whose they are.
            images: uint8 [N, H, W, 3].
            sums: The sha256 of each; empty where there is no image.

        Raises:
            RuntimeError: the cell is in the store with other images. They were dropped, and what is
                drawn here is not the same: earlier scores and new ones would not be of one image.
        """
        if (entry := self.store.find(cell.kind, cell.digest)) is not None:
            before = read_rows(entry)["image_sha256"].to_pylist()
            if apart := sum(a != b for a, b in zip(before, sums, strict=True)):
                raise RuntimeError(
                    f"the images of {cell.title} were dropped, and {apart} of {len(sums)} that are drawn "
                    "here differ from those that were scored; run the suite in another store"
                )
        self.store.remove(PAYLOAD, cell.digest)
        about: dict[str, Any] = {"title": f"images of {cell.title}"}
        about |= {"cell": {"of": cell.kind, "images": len(images)}}
        self.store.publish(PAYLOAD, cell.digest, about, lambda at: write_images(at, images))
        self._held[cell.kind] = (cell.digest, images)

    def kept(self, cell: SampleCell) -> NDArray[np.uint8] | None:
        """The images of a cell, uint8 [N, H, W, 3]; ``None`` if the store has them no more."""
        held = self._held.get(cell.kind)
        if held is not None and held[0] == cell.digest:
            return held[1]
        if (entry := self.store.find(PAYLOAD, cell.digest)) is None:
            return None
        try:
            images = read_images(entry)
        except DamagedError as error:
            self.store.reject(entry, str(error))
            return None
        self._held[cell.kind] = (cell.digest, images)
        return images
