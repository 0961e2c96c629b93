"""A cell's files are read as the libraries read them, though quicker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.core.digest import DamagedError
from bench.run.contents import read_pictures
from bench.run.store import Store

DIGEST = "0" * 64


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 1, 2, 3), (3, 5, 4, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pictures_are_read_as_numpy_reads_them(
    tmp_path: Path, shape: tuple[int, ...], order: str
) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    images = np.asfortranarray(drawn) if order == "F" else drawn
    places = np.arange(shape[0], dtype=np.int32)
    entry = Store(tmp_path).publish(
        "trial", DIGEST, {"cell": {}},
        lambda at: np.savez_compressed(at / "pictures.npz", images=images, places=places),
    )  # fmt: skip
    found = read_pictures(entry)
    assert found.images.dtype == np.uint8
    assert (found.images == images).all()
    assert found.places.tolist() == places.tolist()


def test_pickled_pictures_are_damage_and_never_opened(tmp_path: Path) -> None:
    objects = np.array([{}], dtype=object)
    entry = Store(tmp_path).publish(
        "trial", DIGEST, {"cell": {}},
        lambda at: np.savez(at / "pictures.npz", allow_pickle=True, images=objects, places=objects),
    )  # fmt: skip
    with pytest.raises(DamagedError, match=r"pictures\.npz: expected numbers, got pickled objects"):
        read_pictures(entry)
