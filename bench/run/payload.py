"""The images of a cell on the disk: PNGs in a zip, an entry of their own.

They lie beside the cell's entry and not in it. So they can be dropped when every judge has seen them,
and the cell, its scores and its thumbnails stay as they are.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.core.digest import DamagedError
from bench.run.contents import damaged
from bench.run.store import Entry

__all__ = ["PAYLOAD", "read_images", "write_images"]

PAYLOAD: Final = "images"
"""The kind of these entries; the digest is the cell's."""
_FILE: Final = "images.zip"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same images are the same bytes


def write_images(folder: Path, images: NDArray[np.uint8]) -> None:
    """Writes ``images.zip``: ``00000.png`` and so on.

    Args:
        folder: Of the entry.
        images: uint8 [N, H, W, 3].
    """
    with zipfile.ZipFile(folder / _FILE, "w", zipfile.ZIP_STORED) as file:
        for number, pixels in enumerate(images):
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "png")
            file.writestr(zipfile.ZipInfo(f"{number:05d}.png", _EPOCH), data.getvalue())


def read_images(entry: Entry) -> NDArray[np.uint8]:
    """The images of an entry, uint8 [N, H, W, 3].

    Raises:
        DamagedError: they are not as :func:`write_images` writes them.
    """
    if _FILE not in entry.files:
        raise DamagedError(f"expected a file {_FILE}, got {sorted(entry.files)}")
    try:
        with zipfile.ZipFile(entry.file(_FILE)) as file:
            names = [f"{number:05d}.png" for number in range(len(file.namelist()))]
            images = [_pixels(file.read(name)) for name in names]
        return np.stack(images) if images else np.empty((0, 8, 8, 3), np.uint8)
    except (ValueError, KeyError, EOFError, SyntaxError, OSError, zlib.error) as error:
        raise damaged(_FILE, error) from error
    except (zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        raise damaged(_FILE, error) from error
    except Image.DecompressionBombError as error:
        raise damaged(_FILE, error) from error


def _pixels(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.mode != "RGB":
            raise ValueError(f"expected images in RGB, got {image.mode}")
        pixels: NDArray[Any] = np.asarray(image)
    return pixels
