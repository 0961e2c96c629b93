"""The features of a cell's images: an entry of their own, which every metric that compares by them shares.

They stay when the images are dropped, so that another such metric needs no images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.core.digest import DamagedError, digest_of
from bench.core.errors import UsageError
from bench.core.image_files import image_paths, images_digest, read_image
from bench.interfaces import Features
from bench.run.cells import ReferenceCell, UtilityCell
from bench.run.contents import damaged
from bench.run.stages.pictures import as_floats
from bench.run.stages.score import images_of
from bench.run.store import Entry

if TYPE_CHECKING:
    from bench.run.stages.workspace import Workspace

__all__ = ["FEATURES", "of_cell", "of_folder"]

FEATURES: Final = "features"
"""The kind of these entries; the digest is that of the features and of what they are of."""
_FILE: Final = "features.npy"
_CHUNK: Final = 64


def of_cell(
    work: Workspace, cell: UtilityCell | ReferenceCell, features: Features
) -> NDArray[np.float32]:
    """The features [N, D] of all images of a cell, from the store or worked out and kept there."""

    def made() -> NDArray[np.float32]:
        images = images_of(work, cell)
        chunks = (images[at : at + _CHUNK] for at in range(0, len(images), _CHUNK))
        device = work.base.backbone.device
        return _joined([features.vectors(as_floats(c).to(device)).cpu().numpy() for c in chunks])

    return _kept(work, {"sample": cell.digest}, features, f"features of {cell.title}", made)


def of_folder(work: Workspace, folder: str, features: Features) -> NDArray[np.float32]:
    """The features [N, D] of the images of a folder, from the store or worked out and kept there."""

    def made() -> NDArray[np.float32]:
        device = work.base.backbone.device
        rows, paths = [], image_paths(folder)
        for number, path in enumerate(paths):
            rows.append(features.vectors(read_image(path)[None].to(device)).cpu().numpy())
            work.progress(number + 1, len(paths), "real images")
        return _joined(rows)

    title = f"features of {Path(folder).name}"
    return _kept(work, {"images": images_digest(folder)}, features, title, made)


def _kept(
    work: Workspace,
    what: dict[str, Any],
    features: Features,
    title: str,
    make: Callable[[], NDArray[np.float32]],
) -> NDArray[np.float32]:
    identity = features.identity()
    digest = digest_of({"features": identity, **what})
    if (entry := work.store.find(FEATURES, digest)) is not None:
        try:
            return _read(entry)
        except DamagedError as error:
            work.store.reject(entry, str(error))
    rows = make()
    if features.identity() != identity:
        raise UsageError(f"{features.name}: its files changed while it looked; run again")
    about: dict[str, Any] = {"title": title, "cell": {"features": identity, **what}}

    def write(place: Path) -> None:
        np.save(place / _FILE, rows, allow_pickle=False)

    work.store.publish(FEATURES, digest, about, write)
    return rows


def _read(entry: Entry) -> NDArray[np.float32]:
    if _FILE not in entry.files:
        raise DamagedError(f"expected a file {_FILE}, got {sorted(entry.files)}")
    try:
        rows: NDArray[Any] = np.load(entry.file(_FILE), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise damaged(_FILE, error) from error
    if rows.dtype != np.float32 or rows.ndim != 2:
        raise DamagedError(f"{_FILE}: expected float32 [N, D], got {rows.dtype} of {rows.shape}")
    return rows


def _joined(rows: list[Any]) -> NDArray[np.float32]:
    return np.concatenate(rows).astype(np.float32) if rows else np.empty((0, 0), np.float32)
