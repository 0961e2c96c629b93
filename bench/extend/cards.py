"""Takes the small pictures of a report's page, each with what the rows say of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import pandas as pd

from bench.core.characters import visible
from bench.core.errors import UsageError, shown
from bench.core.files import bounded
from bench.report.gallery import IMAGE, PER_CELL, Card, best_of, card_of

__all__ = ["cards_in"]

_MOST: Final = 2**24
"""Bytes of a page, at most."""
_TABLE: Final = "pictures"
_COLUMNS: Final = 9
_PICTURE: Final = re.compile(r"(data:image/webp;base64,[A-Za-z0-9+/]+={0,2})?")
"""Nothing else is taken over as a picture: a page asks nothing of any server."""

_Key = tuple[str, str, str, str, str]


def cards_in(page: Path, trials: pd.DataFrame) -> Iterator[Card]:
    """Yields the pictures of a page whose image is among the rows, with what the rows say.

    Args:
        page: Of a report. Nothing but the pictures and their places is taken from it.
        trials: Rows of :data:`~bench.tables.schema.TRIALS` by the judge of record.

    Raises:
        UsageError: the page has no table of pictures, or not as a report writes it.
    """
    known = _by_key(trials)
    seen: dict[_Key, int] = {}
    for row in _read(page):
        if len(row.cells) != _COLUMNS or not _PICTURE.fullmatch(row.picture):
            got = f"{len(row.cells)} cells and the picture {shown(row.picture[:40])}"
            raise UsageError(
                f"{page}: expected pictures as a report writes them, got {got}; make the report again"
            )
        _, method, concept, attack, *_, seed, prompt = row.cells
        key = (method, concept, attack.partition("/")[0], seed, prompt)
        number = seen[key] = seen.get(key, -1) + 1
        mine = known.get(key, ())
        if number < min(len(mine), PER_CELL):
            yield card_of(mine[number], row.picture, concept, (method, attack), prompt=prompt)


def _by_key(trials: pd.DataFrame) -> dict[_Key, list[dict[str, Any]]]:
    """The rows' account of each image, by what a page says of it."""
    images = best_of(trials)
    about = trials.drop_duplicates(IMAGE)
    columns = (about[name] for name in ("method", "concept", "attack", "image_seed", "prompt"))
    found: dict[_Key, list[dict[str, Any]]] = {}
    for said, place in zip(
        zip(*columns, strict=True), about[IMAGE].itertuples(index=False, name=None), strict=True
    ):
        method, concept, attack, seed, prompt = (visible(str(value)) for value in said)
        found.setdefault((method, concept, attack, seed, prompt), []).append(images[place])
    return found


class _Row:
    """A row of the table: the picture, and the text of each cell."""

    def __init__(self) -> None:
        self.picture = ""
        self._texts: list[list[str]] = []

    @property
    def cells(self) -> list[str]:
        """The text of each cell."""
        return ["".join(parts) for parts in self._texts]

    def cell(self) -> list[str]:
        """Begins a cell; returns where its text goes."""
        self._texts.append([])
        return self._texts[-1]


def _read(page: Path) -> list[_Row]:
    reader = _Reader()
    try:
        reader.feed(bounded(page, _MOST).decode("utf-8", "replace"))
    except AssertionError as error:  # of the library, for a declaration that it does not know
        raise UsageError(f"{page}: expected HTML: {error}") from error
    if not reader.whole:
        raise UsageError(
            f"{page}: expected a table of pictures, got none that ends; make the report again"
        )
    return reader.rows


class _Reader(HTMLParser):
    """Collects the rows of the body of the table of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[_Row] = []
        self.whole = False
        self._inside = False
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        if tag == "table":
            self._inside = about.get("id") == _TABLE
        if not self._inside or tag in ("table", "thead", "tbody"):
            self._cell = None
        elif tag == "tr":
            self.rows.append(_Row())
            self._cell = None
        elif tag == "td" and self.rows:
            self._cell = self.rows[-1].cell()
        elif tag == "img" and self.rows:
            self.rows[-1].picture = about.get("src") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._cell = None
        elif tag == "thead" and self._inside:
            self.rows, self._cell = [], None
        elif tag == "table":
            self.whole |= self._inside
            self._inside, self._cell = False, None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
