"""Intervals of numbers that sets of images have as a whole: a bootstrap over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "draws", "estimated"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval.

    Attributes:
        value: Of the sets as they are; NaN where there is none.
        low: The lower bound.
        high: The upper bound.
    """

    value: float
    low: float
    high: float


def draws(units: Sequence[object], resamples: int, rng: np.random.Generator) -> Floats:
    """How often each row is drawn, [1 + resamples, N]: whole units with replacement.

    The first row has each once.

    Args:
        units: The unit of each row, such as its prompt.
        resamples: How many.
        rng: Where they come from; its state is advanced.
    """
    places: dict[object, int] = {}
    codes = np.array([places.setdefault(unit, len(places)) for unit in units], dtype=np.intp)
    once = np.ones((1, len(codes)))
    if not len(codes):
        return np.repeat(once, 1 + resamples, axis=0)
    count = len(places)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([once, drawn[:, codes].astype(np.float64)])


def estimated(values_R: Floats, *, least: float = -np.inf, most: float = np.inf) -> Estimate:
    """The first value, with the spread of the others around their mean.

    A resample repeats images, which moves a distance of covariances or kernels by itself. So the
    interval is the value plus the 2.5 and 97.5 % quantiles of (resample - mean of the resamples).

    Args:
        values_R: The value of the sets, and of each resample.
        least: No bound is below.
        most: No bound is above.
    """
    value, others = float(values_R[0]), values_R[1:]
    others = others[np.isfinite(others)]
    if not np.isfinite(value) or len(others) < 2:
        return Estimate(value, np.nan, np.nan)
    low, high = np.quantile(others - others.mean(), [0.025, 0.975])
    return Estimate(
        value,
        min(max(value + float(low), least), value),
        max(min(value + float(high), most), value),
    )
