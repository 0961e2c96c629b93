"""Spearman's rank correlation with an interval and an exact test, for as few pairs as tables have.

The interval is z +/- 1.96 sqrt((1 + rho^2 / 2) / (n - 3)) on Fisher's scale (Bonett and Wright 2000, Psychometrika 65,
23 to 28). The test counts the orders that agree at least as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

__all__ = ["LEAST", "Agreement", "agreement"]

LEAST: Final = 5
"""The fewest pairs that are compared."""
_EXACT: Final = 8
"""Up to here all orders are counted: 40,320 of them."""
_DRAWS: Final = 20_000
_Z: Final = 1.959964


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two rankings agree.

    Attributes:
        n: Pairs.
        rho: Spearman's, in [-1, 1]; NaN where one side has no order at all.
        low: Of the 95 % interval.
        high: Of the 95 % interval.
        p: Share of the orders of one side that agree with the other at least as well.
    """

    n: int
    rho: float
    low: float
    high: float
    p: float


def agreement(first: ArrayLike, second: ArrayLike) -> Agreement:
    """Compares the ranks of two lists of values; ties share their mean rank.

    A perfect order has no interval on Fisher's scale. It gets the one of the next best order,
    with two neighbours changed round, and reaches to the end of the scale.

    Raises:
        ValueError: the lists differ in length, or have fewer than :data:`LEAST` values.
    """
    a, b = (_centred(values) for values in (first, second))
    n = len(a)
    if n != len(b) or n < LEAST:
        raise ValueError(f"expected two lists of at least {LEAST} values, got {n} and {len(b)}")
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if scale == 0:
        return Agreement(n, np.nan, np.nan, np.nan, np.nan)
    rho = float(np.clip(a @ b / scale, -1, 1))
    most = 1 - 12 / (n * (n * n - 1))
    z = np.arctanh(np.clip(rho, -most, most))
    half = _Z * np.sqrt((1 + rho * rho / 2) / (n - 3))
    low, high = np.tanh(z - half), np.tanh(z + half)
    if abs(rho) > most:
        low, high = (low, 1.0) if rho > 0 else (-1.0, high)
    others = b[_orders(n)] @ a / scale
    return Agreement(n, rho, float(low), float(high), float(np.mean(others >= rho - 1e-12)))


def _centred(values: ArrayLike) -> NDArray[np.float64]:
    ranks = pd.Series(np.asarray(values, float)).rank().to_numpy()
    if np.isnan(ranks).any():
        raise ValueError("expected values without gaps, got NaN; leave the pair out")
    return ranks - ranks.mean()


def _orders(n: int) -> NDArray[np.intp]:
    """All orders of n things [orders, n]; of more than :data:`_EXACT` a fixed draw of them, with their own order."""
    if n <= _EXACT:
        return np.array(list(permutations(range(n))), np.intp)
    drawn = np.random.default_rng(0).permuted(np.tile(np.arange(n), (_DRAWS, 1)), axis=1)
    return np.vstack([np.arange(n), drawn]).astype(np.intp)
