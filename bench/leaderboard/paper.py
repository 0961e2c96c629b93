"""Who made a method, and where it is published: the one part of a card that people write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from bench.core.errors import UsageError, from_pydantic
from bench.core.files import bounded
from bench.core.json_files import object_in
from bench.leaderboard.fields import Card, Line, Url
from bench.tables.text import slug

__all__ = ["PAPERS", "Paper", "paper_of"]

PAPERS: Final = "papers"
"""The folder of these cards, beside the entries."""
_MOST: Final = 100_000


class Paper(Card):
    """A paper, its code and its licence; ``results/leaderboard/papers/<method>.json``.

    Attributes:
        title: Of the paper; of a practice without one, what it is.
        authors: In the paper's order.
        venue: Where it appeared.
        year: When.
        paper: Its address; empty without one.
        code: The address of the authors' code; empty where there is none.
        licence: Of that code.
        slugs: What ``published.csv`` calls the method.
        own_sources: The sources of ``published.csv`` that are its own paper.
    """

    title: Annotated[Line, Field(min_length=1)]
    authors: tuple[Line, ...]
    venue: Line
    year: Annotated[int, Field(ge=1950, le=2200)]
    paper: Url
    code: Url
    licence: Line
    slugs: tuple[Line, ...] = ()
    own_sources: tuple[Line, ...] = ()


def paper_of(board: Path, label: str, name: str) -> Paper:
    """The paper of a method: a card of its own line in the tables, or else of its class.

    Args:
        board: The folder of the leaderboard.
        label: The method's, as tables have it.
        name: The registered name of its class.

    Raises:
        UsageError: there is neither, or it is not what was expected.
    """
    places = [board / PAPERS / f"{slug(each)}.json" for each in (label, name)]
    place = next((path for path in places if path.is_file()), None)
    if place is None:
        raise UsageError(
            f"expected {places[-1]} to say who made {label!r}, and it is not there; write it as "
            "docs/leaderboard.md says"
        )
    data = bounded(place, _MOST)
    object_in(data, place)  # each key once, no NaN
    try:
        return Paper.model_validate_json(data)
    except ValidationError as error:
        raise UsageError(f"{place}: {from_pydantic(error, Paper)}") from error
