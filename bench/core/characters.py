"""Characters that steer a terminal or turn a line around: found, refused, or shown as escapes."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["HIDDEN", "MOST_TEXT", "plain", "visible"]

MOST_TEXT: Final = 10_000
"""Characters of one text of a spec, at most: a prompt or a template, no file."""

# The controls C0 and C1, ends of line and paragraph, marks and embeddings of direction, the mark of byte
# order, tags, and halves of pairs. Joiners stay: scripts and emoji need them.
_STEERING: Final = (
    "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff"
)
HIDDEN: Final = re.compile(f"[{_STEERING}]")


def visible(text: str) -> str:
    r"""The text with each hidden character as its escape (``\x1b``), but for the ends of lines."""
    return HIDDEN.sub(_escaped, text)


def plain(text: str) -> str:
    """The text itself, if it can stand in a table, on a terminal and in a file's name.

    Raises:
        ValueError: it holds a character that steers a terminal or turns the line around, or is too long.
    """
    if len(text) > MOST_TEXT:
        raise ValueError(f"expected at most {MOST_TEXT} characters, got {len(text)}")
    if found := HIDDEN.search(text):
        code = f"U+{ord(found[0]):04X}"
        raise ValueError(
            f"expected text on one line without control characters and direction marks, got {code}"
        )
    return text


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found[0] == "\n" else ascii(found[0])[1:-1]
