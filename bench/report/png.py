"""Pixels as a PNG: what is drawn for a report has large even areas and rows that repeat."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["png"]

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_TRUECOLOUR: Final = bytes([8, 2, 0, 0, 0])  # 8 bits each of red, green and blue; not interlaced
_UP: Final = 2  # each row is written as its difference from the one above
_LEVEL: Final = 3
_INCH: Final = 0.0254
_BAND: Final = 256
"""Rows that are packed at once."""


def png(pixels: NDArray[np.uint8], *, dpi: float) -> bytes:
    """The file of a picture: a third of the time of Pillow's, and as small.

    Pillow tries five filters on each row. The difference from the row above suits pictures whose
    pixels were doubled, and white paper. See https://www.w3.org/TR/png-3/.

    Args:
        pixels: uint8 [H, W, 3].
        dpi: Pixels per inch.
    """
    high, wide = pixels.shape[:2]
    packer = zlib.compressobj(_LEVEL)
    packed = [packer.compress(band) for band in _filtered(pixels)]
    metre = round(dpi / _INCH)
    return _SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">II", wide, high) + _TRUECOLOUR),
            _chunk(b"pHYs", struct.pack(">IIB", metre, metre, 1)),
            _chunk(b"IDAT", b"".join((*packed, packer.flush()))),
            _chunk(b"IEND", b""),
        )
    )


def _filtered(pixels: NDArray[np.uint8]) -> Iterator[memoryview]:
    """The rows as they are packed, a band at a time: a grid of many methods is 50 MB."""
    flat = pixels.reshape(len(pixels), -1)  # a copy where it is a view that leaves pixels out
    above = np.zeros_like(flat[0])
    for top in range(0, len(flat), _BAND):
        band = flat[top : top + _BAND]
        rows = np.empty((len(band), 1 + flat.shape[1]), np.uint8)
        rows[:, 0] = _UP
        np.subtract(band[0], above, out=rows[0, 1:])
        np.subtract(band[1:], band[:-1], out=rows[1:, 1:])
        above = band[-1]
        yield rows.data


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
