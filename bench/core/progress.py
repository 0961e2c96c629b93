"""How a long piece of work tells how far it is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Told how far a long piece of work is."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """``done`` of ``total`` steps of ``what``."""


def silent(done: int, total: int, what: str) -> None:
    """A :class:`Progress` that says nothing."""
