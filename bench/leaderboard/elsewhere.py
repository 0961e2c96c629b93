"""Numbers that others published: the paper's own and re-evaluations, each with its source and its judge.

They come from ``published.csv`` beside the entries: no entry may hold one that is not in that table.
"""

from __future__ import annotations

import csv
import io
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from bench.core.errors import UsageError, from_pydantic
from bench.core.files import bounded
from bench.leaderboard.entry import Published
from bench.leaderboard.paper import Paper

__all__ = ["TABLE", "published_of"]

TABLE: Final = "published.csv"
_MOST: Final = 2**23
_TEXTS: Final = (
    *("source", "where", "base", "concept", "attack", "judge"),
    *("threshold", "metric", "unit", "evidence", "note"),
)


def published_of(board: Path, paper: Paper) -> tuple[tuple[Published, ...], tuple[Published, ...]]:
    """The numbers that a method's own paper reports, and those that others measured of it.

    Args:
        board: The folder of the leaderboard.
        paper: Says what the table calls the method, and which sources are its own.

    Raises:
        UsageError: the table cannot be read, or a number in it has no source or no judge.
    """
    path = board / TABLE
    if not paper.slugs or not path.is_file():
        return (), ()
    rows = [row for row in _read(path, bounded(path, _MOST)) if row.variant in paper.slugs]
    own = tuple(row for row in rows if row.source in paper.own_sources)
    return own, tuple(row for row in rows if row.source not in paper.own_sources)


@lru_cache(maxsize=2)
def _read(path: Path, data: bytes) -> tuple[Published, ...]:
    found = []
    for number, row in enumerate(csv.DictReader(io.StringIO(data.decode())), start=2):
        try:
            found.append(
                Published(
                    **{name: row[name] for name in _TEXTS},
                    variant=row["method"],
                    access=row["attack_access"],
                    n=int(row["n"]) if row["n"] else None,
                    value=float(row["value"]),
                )
            )
        except ValidationError as error:
            raise UsageError(f"{path}:{number}: {from_pydantic(error, Published)}") from error
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(
                f"{path}:{number}: expected a number with source and judge, got {error}"
            ) from error
    return tuple(found)
