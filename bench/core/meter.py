"""Counts what a piece of work spends, beside its seconds and memory, and keeps what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Meter", "Note"]

Note = float | int | str | bool | None


@dataclass(slots=True)
class Meter:
    """Counts what is spent through the models that carry it.

    A model and all that is made of it share one meter. Whoever wants to know what a piece of work
    costs gives it a model with a fresh one. It is a value that travels with the model, and no state
    of the process: a worker counts as the main process does.

    Attributes:
        images: Images sampled.
        gradient_steps: Optimiser steps; a step of B rows at once counts once.
        reused: Finds that an earlier piece of work had made, and this one did not make again.
        reused_seconds: What they took then. Beside the measured seconds, so that the sum does not tell who came first.
        notes: What the work chose by itself, by name (a strength, a threshold).
    """

    images: int = 0
    gradient_steps: int = 0
    reused: int = 0
    reused_seconds: float = 0.0
    notes: dict[str, Note] = field(default_factory=dict)

    def spend(self, *, images: int = 0, gradient_steps: int = 0) -> None:
        """Adds to the count."""
        self.images += images
        self.gradient_steps += gradient_steps

    def reuse(self, *, finds: int, seconds: float) -> None:
        """Adds finds that were there, and the time that was saved; their steps and images are spent as ever."""
        self.reused += finds
        self.reused_seconds += seconds

    def note(self, **said: Note) -> None:
        """Writes down something the work chose by itself; the edit's record keeps it."""
        self.notes |= said
