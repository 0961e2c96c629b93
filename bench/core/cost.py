"""Counts what a piece of work spends beside seconds and memory, and keeps what it says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

__all__ = ["Cost", "Note", "counting", "note", "spend"]

Note = float | int | str | bool | None


@dataclass(slots=True)
class Cost:
    """Counted since :func:`counting` began.

    Attributes:
        images: Images sampled.
        gradient_steps: Optimiser steps; a step of B rows at once counts once.
        notes: What the work chose by itself, by name (a strength, a threshold).
    """

    images: int = 0
    gradient_steps: int = 0
    notes: dict[str, Note] = field(default_factory=dict)


_open: ContextVar[tuple[Cost, ...]] = ContextVar("open_costs", default=())


@contextmanager
def counting() -> Iterator[Cost]:
    """Counts what is spent inside; nested uses each see it."""
    cost = Cost()
    token = _open.set((*_open.get(), cost))
    try:
        yield cost
    finally:
        _open.reset(token)


def spend(*, images: int = 0, gradient_steps: int = 0) -> None:
    """Adds to every count that is open."""
    for cost in _open.get():
        cost.images += images
        cost.gradient_steps += gradient_steps


def note(**said: Note) -> None:
    """Writes something the work chose by itself to every count that is open; the edit's record keeps it."""
    for cost in _open.get():
        cost.notes |= said
