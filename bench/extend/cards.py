"""Reads the pictures of a report's page, which has them small: a report has no others but its grids."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from bench.core.errors import UsageError, shown
from bench.core.files import bounded
from bench.report.gallery import Card
from bench.tables.text import NONE

__all__ = ["cards_in"]

_MOST: Final = 2**27
"""Bytes of a page, at most."""
_TABLE: Final = "pictures"
_COLUMNS: Final = 9
_PICTURE: Final = re.compile(r"(data:image/webp;base64,[A-Za-z0-9+/]+={0,2})?")
"""Nothing else is taken over as a picture: a page asks nothing of any server."""
_LOOKS: Final = re.compile(r"(\S+) in ([0-9]+)")

_Row = tuple[str, list[str]]


def cards_in(page: Path) -> list[Card]:
    """Returns the cards of a report's page, in its order, with the numbers as far as it shows them.

    Raises:
        UsageError: the page's table of pictures is not as a report writes it.
    """
    reader = _Reader()
    reader.feed(bounded(page, _MOST).decode("utf-8", "replace"))
    return [_card(row, page) for row in reader.rows]


class _Reader(HTMLParser):
    """Collects the rows of the table of pictures: the picture, and the text of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[_Row] = []
        self._inside = self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        if tag == "table":
            self._inside = about.get("id") == _TABLE
        elif self._inside and tag == "tr":
            self.rows.append(("", []))
        elif self._inside and tag == "td" and self.rows:
            self.rows[-1][1].append("")
            self._in_cell = True
        elif self._inside and tag == "img" and self.rows:
            self.rows[-1] = (about.get("src") or "", self.rows[-1][1])

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._inside = False
        elif tag == "td":
            self._in_cell = False
        elif tag == "thead" and self._inside:
            self.rows.clear()

    def handle_data(self, data: str) -> None:
        if self._inside and self._in_cell:
            self.rows[-1][1][-1] += data


def _card(row: _Row, page: Path) -> Card:
    picture, cells = row
    if len(cells) != _COLUMNS or not _PICTURE.fullmatch(picture):
        got = f"{len(cells)} cells and the picture {shown(picture[:40])}"
        raise UsageError(
            f"{page}: expected pictures as a report writes them, got {got}; make the report again"
        )
    _, method, concept, attack, verdict, score, saw, seed, prompt = cells
    looked = _LOOKS.fullmatch(saw)
    try:
        return Card(
            picture=picture, method=method, concept=concept, attack=attack, verdict=verdict,
            score=_number(score), own_score=_number(looked[1]) if looked else math.nan,
            queries=int(looked[2]) if looked else 0, seed=int(seed), prompt=prompt,
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(f"{page}: expected numbers in its table of pictures: {error}") from error


def _number(text: str) -> float:
    return math.nan if text == NONE else float(text)
