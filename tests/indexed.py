"""The indices of candidates and draws, for rows that a test spells out by goal and seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["indexed"]

_FIND = (
    "method",
    "source",
    "concept",
    "repeat",
    "attack",
    "prompt_set",
    "goal",
    "variant",
    "prompt",
)
_IMAGE = ("image_seed", "image_sha256", "trial_digest")


def indexed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with the index of its find and image where it names none.

    Rows of one goal, variant and prompt are of one candidate; those of one seed are of one draw.
    """
    finds: dict[tuple[Any, ...], int] = {}
    draws: dict[tuple[Any, ...], dict[tuple[Any, ...], int]] = {}
    made = []
    for row in rows:
        find = tuple(row[name] for name in _FIND)
        number = finds.setdefault(find, len(finds))
        seen = draws.setdefault(find, {})
        draw = seen.setdefault(tuple(row[name] for name in _IMAGE), len(seen))
        missing = {"candidate": number, "draw": draw}
        made.append(row | {name: value for name, value in missing.items() if row.get(name) is None})
    return made
