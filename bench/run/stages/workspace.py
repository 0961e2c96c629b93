"""The surroundings of a cell that is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.interfaces import Progress, registry
from bench.model.text_to_image import TextToImage
from bench.run.cells import Cell, OfMethod
from bench.run.plan import Plan
from bench.run.store import Entry, Store

__all__ = ["Workspace", "Written"]


@dataclass(slots=True)
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

    def parent(self, cell: Cell, kind: str) -> Entry:
        """The entry of a parent.

        Raises:
            LookupError: it is not there, because it failed.
        """
        entry = self.store.find(kind, cell.parents[kind])
        if entry is None:
            raise LookupError(
                f"its {kind} {cell.parents[kind][:12]} is missing: it failed, or was set aside as damaged"
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


Written = tuple[dict[str, Any], Callable[[Path], None]]
