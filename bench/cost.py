"""What a piece of work spent: images sampled and gradient steps taken, beside its seconds and memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Cost", "counting", "spend"]


@dataclass(slots=True)
class Cost:
    """Counted since :func:`counting` began.

    Attributes:
        images: Images sampled.
        gradient_steps: Optimiser steps; a step of B rows at once counts once.
    """

    images: int = 0
    gradient_steps: int = 0


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
