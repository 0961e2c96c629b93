"""Says what an edited model changed of its base, by part and in per cent: said to the user and kept in the record.

A part's change is the norm of the difference over the norm of the base's own parameters of that
part: 100 ||W' - W|| / ||W||. Those that were left alone are included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.core.lazy import torch
from bench.model.families.roles import Role
from bench.model.families.sdxl import StableDiffusionXL
from methods.released.base import Base

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Change", "Changes", "in_words", "part_of"]

# The first role that a parameter has is its part. Two names are of no role of their own.
_PARTS: Final = (
    (Role.TEXT_KEYS_AND_VALUES, "cross-attention keys and values"),
    (Role.CROSS_ATTENTION, "cross-attention, the rest"),
    (Role.SELF_ATTENTION, "self-attention"),
    (Role.FEED_FORWARD, "feed-forward"),
    (Role.TIME_EMBEDDING, "time embedding"),
    (Role.OUTPUT, "output"),
    (Role.NORM, "norms"),
    (Role.CONVOLUTION, "convolutions"),
    (Role.DENOISER, "the rest of the UNet"),
    (Role.TEXT_SELF_ATTENTION, "text encoder: self-attention"),
    (Role.TEXT_FEED_FORWARD, "text encoder: feed-forward"),
    (Role.TEXT_ENCODER, "text encoder: the rest"),
)


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one part.

    Attributes:
        part: In words.
        changed: Parameters (matrices, biases) that differ from the base's.
        total: That the base has there.
        per_cent: 100 times the norm of the difference over the norm of the base's; infinite where the
            base's are zero throughout.
    """

    part: str
    changed: int
    total: int
    per_cent: float


@dataclass
class Changes:
    """Sums up what is compared, a parameter at a time."""

    _apart: dict[str, float] = field(default_factory=dict)
    _own: dict[str, float] = field(default_factory=dict)

    def saw(self, name: str, own: Tensor, new: Tensor | None) -> None:
        """Takes in a parameter.

        Args:
            name: ``component.name``.
            own: The base's value.
            new: The file's; ``None`` if it is the base's.
        """
        self._own[name] = _square(own)
        if new is not None:
            self._apart[name] = _square(new.double() - own.double())

    def of(self, base: Base) -> list[Change]:
        """A row per part that was changed, in the order of the parts."""
        rows = []
        for part in dict.fromkeys(text for _, text in _PARTS):
            names = [name for name in base.shapes if part_of(name) == part]
            changed = [name for name in names if name in self._apart]
            if not changed:
                continue
            for name in names:  # those that the file does not hold
                if name not in self._own:
                    self._own[name] = _square(base.value(name))
            apart, own = (
                sum(self._apart[name] for name in changed),
                sum(self._own[name] for name in names),
            )
            share = math.sqrt(apart / own) if own else math.inf
            rows.append(Change(part, len(changed), len(names), 100 * share))
        return rows


def part_of(name: str) -> str:
    """The part of a parameter ``component.name``."""
    roles = StableDiffusionXL.roles_of(name)
    return next((text for role, text in _PARTS if role in roles), "others")


def in_words(rows: list[Change]) -> str:
    """The rows in one line."""
    return "; ".join(f"{r.part} {r.per_cent:.3g} % ({r.changed} of {r.total})" for r in rows)


def _square(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value, dtype=torch.float64)) ** 2
