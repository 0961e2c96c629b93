"""Names the stage of an ensemble that a find is from, so that rows alone tell success by stage."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Stage"]

_TOLD = re.compile(r"(?P<number>\d+): (?P<attack>\S+) \((?P<access>[a-z]+)\)")


class Stage(NamedTuple):
    """One attack of an ensemble whose goals leave when they are broken.

    Attributes:
        number: Its place, from 1.
        attack: Its name.
        access: What it holds, in small letters.
    """

    number: int
    attack: str
    access: str

    def __str__(self) -> str:
        """The variant of its finds, such as ``2: seed_search (latent)``."""
        return f"{self.number}: {self.attack} ({self.access})"

    @classmethod
    def read(cls, variant: str) -> Stage | None:
        """The stage that a find's variant names; ``None`` where it names none."""
        if (found := _TOLD.fullmatch(variant)) is None:
            return None
        return cls(int(found["number"]), found["attack"], found["access"])
