"""The names of the files of grids: a report's own, and those that it took from earlier reports."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.tables.text import slug

__all__ = ["earlier_name", "grid_names", "own_name"]

_EARLIER = re.compile(r"(?P<own>grid-[a-z0-9_]+)\.[0-9a-f]{12}\.png")


def own_name(concept: str) -> str:
    """The name of a report's own grid of a concept, such as ``grid-star.png``."""
    return f"grid-{slug(concept)}.png"


def earlier_name(name: str, commit: str) -> str:
    """The name under which a grid is taken from a report of a commit: ``grid-star.0123456789ab.png``.

    One that the report took itself keeps its name.
    """
    return name if _EARLIER.fullmatch(name) else f"{name.removesuffix('.png')}.{commit[:12]}.png"


def grid_names(names: Iterable[str], concept: str) -> list[str]:
    """The names of all grids of a concept among those of files: the report's own first."""
    own = own_name(concept)
    stem = own.removesuffix(".png")
    found = ((name, _EARLIER.fullmatch(name)) for name in sorted(names))
    earlier = [name for name, told in found if told is not None and told["own"] == stem]
    return [own] * (own in names) + earlier
