"""The text of a file: unpacked if it is gzip, decoded by the mark that it begins with."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import Final

from bench.core.errors import UsageError

__all__ = ["decoded", "unpacked"]

_GZIP: Final = b"\x1f\x8b"
# The mark of UTF-32 begins with that of UTF-16: longer ones first.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def unpacked(path: Path, data: bytes, most: int) -> bytes:
    """The data, unpacked if they are gzip; no more than ``most`` bytes are made.

    Raises:
        UsageError: they are more, or no sound gzip.
    """
    if not data.startswith(_GZIP):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            found = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: not valid gzip ({error}); pack it again") from error
    if len(found) > most:
        raise UsageError(
            f"{path}: expected at most {most // 2**20} MiB when unpacked, got more; "
            "split it, or keep fewer rows"
        )
    return found


def decoded(path: Path, data: bytes) -> str:
    """The text: UTF-8, or what its byte order mark says (UTF-8, UTF-16, UTF-32).

    Raises:
        UsageError: the bytes are not of that encoding.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        known = encoding.removesuffix("-sig").upper()
        raise UsageError(f"{path}: not {known} at byte {error.start}; save it as UTF-8") from error
