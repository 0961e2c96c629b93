"""How large a number of a spec can be: ranges by what is counted, wide enough for any published preset.

A number without a bound is a typing slip that takes years, or memory that no machine has. So every
numeric field of a spec has one of these, or says its own; ``tests/bench/core/test_bounds.py`` holds each
registered spec to it. A bound is validation only: it is in no digest.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from pydantic import Field

__all__ = [
    "MOST_STEPS",
    "Count",
    "Factor",
    "Guidance",
    "LearningRate",
    "Number",
    "Solver",
    "Steps",
    "Weight",
]

MOST_STEPS: Final = 1_000_000

Count: TypeAlias = Annotated[int, Field(ge=1, le=10_000)]
"""Of images, tries, seeds, restarts, rows: 1 to 10,000."""

Steps: TypeAlias = Annotated[int, Field(ge=1, le=MOST_STEPS)]
"""Of an optimiser or a search: 1 to 1,000,000."""

Solver: TypeAlias = Annotated[int, Field(ge=1, le=1000)]
"""Sampling steps: 1 to 1,000, as many as a noise schedule has timesteps."""

LearningRate: TypeAlias = Annotated[float, Field(gt=0, le=100)]
"""Of any optimiser: above 0, at most 100."""

Guidance: TypeAlias = Annotated[float, Field(ge=0, le=1000)]
"""A classifier-free guidance scale: 0 to 1,000; what people use is below 30."""

Weight: TypeAlias = Annotated[float, Field(ge=0, le=1e6)]
"""Of a term of a loss or of an equation: 0 to a million."""

Factor: TypeAlias = Annotated[float, Field(ge=-1000, le=1000)]
"""A factor of a difference, either way: -1,000 to 1,000."""

Number: TypeAlias = Annotated[float, Field(ge=-1e6, le=1e6)]
"""A score or a threshold of any scale: -1,000,000 to 1,000,000."""
