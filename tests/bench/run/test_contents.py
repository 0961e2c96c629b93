"""A cell's files are read as the libraries read them, though quicker."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.core.digest import DamagedError
from bench.run.contents import each_picture, read_pictures, read_rows
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
    one_by_one = list(each_picture(entry))
    assert [each.tolist() for each in one_by_one] == images.tolist()


def test_pickled_pictures_are_damage_and_never_opened(tmp_path: Path) -> None:
    objects = np.array([{}], dtype=object)
    entry = Store(tmp_path).publish(
        "trial", DIGEST, {"cell": {}},
        lambda at: np.savez(at / "pictures.npz", allow_pickle=True, images=objects, places=objects),
    )  # fmt: skip
    with pytest.raises(DamagedError, match=r"pictures\.npz: expected numbers, got pickled objects"):
        read_pictures(entry)


def test_what_was_verified_is_what_is_read(tmp_path: Path) -> None:
    """An entry that was found and changes afterwards is damage, and one that was read is used as it was verified."""
    rows = {name: ["ok"] for name in ("status", "reason", "image_sha256")} | {"image_seed": [1]}
    Store(tmp_path).publish(
        "utility", DIGEST, {"cell": {}},
        lambda at: pd.DataFrame(rows).to_parquet(at / "rows.parquet", index=False),
    )  # fmt: skip
    found, read = Store(tmp_path).find("utility", DIGEST), Store(tmp_path).read("utility", DIGEST)
    assert found is not None
    assert read is not None
    path = found.file("rows.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedError, match=r"rows\.parquet: expected sha256"):
        read_rows(found)
    assert read_rows(read)["image_seed"].to_pylist() == [1]
    assert Store(tmp_path).read("utility", DIGEST) is None


def test_pictures_that_end_early_are_damage(tmp_path: Path) -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    data = io.BytesIO()
    np.save(data, images)

    def write(at: Path) -> None:
        with zipfile.ZipFile(at / "pictures.npz", "w") as file:
            file.writestr("images.npy", data.getvalue()[:-1])

    entry = Store(tmp_path).publish("trial", DIGEST, {"cell": {}}, write)
    pictures = each_picture(entry)
    assert not next(pictures).any()
    with pytest.raises(DamagedError, match=r"^pictures\.npz: "):
        next(pictures)
