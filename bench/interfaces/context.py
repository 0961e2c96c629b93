"""Holds what a method or an attack is handed beside its input: randomness, and whom to tell what."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench.core.meter import Meter, Note
from bench.core.progress import Progress, silent
from bench.core.rng import Rng

if TYPE_CHECKING:
    from bench.core.lazy import torch

__all__ = ["Context", "keep_door"]


def keep_door(cls: type, base: type, instead: str) -> None:
    """Refuses a class that replaces the door of its plug point: what the door checks would not be checked.

    Args:
        cls: A class below ``base``.
        base: ``Erasure`` or ``Attack``.
        instead: What its author writes.

    Raises:
        TypeError: it has a ``__call__`` of its own.
    """
    if getattr(cls, "__call__") is not getattr(base, "__call__"):  # noqa: B004, B009 (of the class, not the object)
        raise TypeError(
            f"{cls.__name__}: expected no __call__, the door of {base.__name__}, got one; write {instead}"
        )


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings of one piece of work; nothing else is around it.

    Example:
        ``noise = torch.randn(4, generator=ctx.generator("noise"))``

    Attributes:
        rng: The only source of randomness.
        progress: Told of long work.
        meter: Counts what the work spends; the model that it was handed carries the same one.
    """

    rng: Rng
    progress: Progress = silent
    meter: Meter = field(default_factory=Meter)

    def child(self, *name: object) -> Context:
        """The same, with the random streams below ``name``."""
        return replace(self, rng=self.rng.child(*name))

    def generator(self, *name: object) -> torch.Generator:
        """A fresh CPU generator; the same name gives the same stream."""
        return self.rng.generator(*name)

    def seed(self, *name: object) -> int:
        """A 63-bit seed, likewise."""
        return self.rng.seed(*name)

    def spend(self, *, images: int = 0, gradient_steps: int = 0) -> None:
        """Counts what no part of this project counts by itself.

        ``model.sample`` counts its images, and what trains in :mod:`bench.toolkit` its steps.
        """
        self.meter.spend(images=images, gradient_steps=gradient_steps)

    def note(self, **said: Note) -> None:
        """Writes something that the work chose by itself into its record."""
        self.meter.note(**said)
