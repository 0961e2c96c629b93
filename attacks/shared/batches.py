"""How an attack takes its goals: all at once, or, in the reference mode, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bench.interfaces import Goal

__all__ = ["Mode", "batches"]

Mode = Literal["batched", "reference"]


def batches(goals: Sequence[Goal], mode: Mode) -> list[list[Goal]]:
    """The goals in the batches that are worked on together."""
    return [[goal] for goal in goals] if mode == "reference" else [list(goals)]
