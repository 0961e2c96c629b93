"""Confidence intervals for rows clustered by prompt.

Every row is one (prompt, seed). Seeds of one prompt share the prompt's difficulty, so the prompt is
the cluster. An interval that counted the rows as independent would be too narrow. Proportions get a
Wilson interval at the effective sample size. Means of anything else get a bootstrap that draws whole
prompts. Rows of several repeats of an edit have a second cluster (:mod:`bench.tables.repeats`).

References:
    Wilson (1927), Probable inference, the law of succession, and statistical inference. JASA 22.
    Kish (1965), Survey Sampling: the design effect.
    Cochran (1977), Sampling Techniques, 3rd ed.: the variance of a ratio of cluster totals.
    Davison and Hinkley (1997), Bootstrap Methods and Their Application, section 3.8.
    Franco, Little, Louis and Slud (2019), Comparative study of confidence intervals for proportions
        in complex sample surveys. Journal of Survey Statistics and Methodology 7. PMC6690503.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

_USUAL, _USUAL_Z = 0.95, 1.959963984540054
"""The confidence of all tables, and the normal quantile of its upper end."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence bounds.

    Attributes:
        value: The point estimate; NaN where there are no rows.
        low: The lower bound; NaN where it cannot be estimated.
        high: The upper bound; NaN where it cannot be estimated.
        n: How many rows the estimate rests on.
        clusters: How many prompts those rows come from.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int


def wilson_bounds(
    successes: ArrayLike, n: ArrayLike, *, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Wilson's score interval of a proportion, elementwise.

    With p = successes / n and z the normal quantile of the confidence,

        (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)

    It stays inside [0, 1] and is not empty at 0 or n successes (Wilson 1927). The counts need not
    be whole: an effective sample size is welcome.

    Args:
        successes: How many succeeded, each in [0, n].
        n: Out of how many; where 0, both bounds are NaN.
        confidence: The two-sided confidence level.

    Returns:
        The lower and the upper bounds, in the broadcast shape of the arguments.

    Raises:
        ValueError: If a count is negative, or there are more successes than trials.
    """
    successes, n = np.broadcast_arrays(
        np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    )
    if not np.all((successes >= 0) & (successes <= n)):
        raise ValueError("expected 0 <= successes <= n everywhere; check the counts passed in")
    z = _z(confidence)
    empty = n == 0
    trials = np.where(empty, 1.0, n)
    p = successes / trials
    scale = 1 + z**2 / trials
    centre = (p + z**2 / (2 * trials)) / scale
    half = z * np.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2)) / scale
    # Exact at the ends, where rounding would leave 1e-17, and never past the estimate.
    low = np.where(successes == 0, 0.0, np.clip(centre - half, 0.0, p))
    high = np.where(successes == n, 1.0, np.clip(centre + half, p, 1.0))
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's interval of one proportion of independent rows: each row is its own cluster."""
    low, high = wilson_bounds(successes, n, confidence=confidence)
    value = successes / n if n else math.nan
    return Interval(value, float(low), float(high), n=n, clusters=n)


def effective_size(success: ArrayLike, clusters: ArrayLike) -> float:
    """How many independent rows the clustered rows are worth.

    For n rows in G clusters with rate p, let z_g be the sum over cluster g of (y - p). The rate is
    a ratio of cluster totals, with linearised variance (Cochran 1977) and design effect (Kish 1965)

        V = G/(G-1) · Σ_g z_g² / n²        deff = V / (p(1-p)/(n-1))        n_eff = n / max(deff, 1)

    One row per cluster gives deff = 1 exactly; identical rows within G equal clusters give n_eff =
    n(G-1)/(n-1). A deff below one is mostly noise, so it never buys more than n.

    Where all rows agree, or there is one cluster only, the data cannot tell independent rows from
    identical ones. The rule is then the worst case: n_eff = G. Ten seeds each of twenty prompts
    without a single success are evidence about twenty prompts, not two hundred. More seeds of the
    same prompts must not buy a safer-looking zero. So the interval of 0/n can be wider than that of
    1/n, whose rows do say something about the correlation.

    Args:
        success: Whether each row succeeded.
        clusters: The cluster label of each row.

    Returns:
        The effective size, at most n; 0 where there are no rows.
    """
    return _effective(*_clustered(_booleans(success), clusters))


def _effective(y: Floats, codes: NDArray[np.intp], count: int, more: float = 0.0) -> float:
    """As :func:`effective_size`, of rows whose clusters are numbers from 0 to ``count``."""
    n = y.size
    p = float(y.mean()) if n else math.nan
    if count < 2 or p in (0.0, 1.0):
        return float(count)
    residuals = np.bincount(codes, weights=y - p, minlength=count)
    variance = count / (count - 1) * float(residuals @ residuals) / n**2
    independent = p * (1 - p) / (n - 1)
    return n / (max(variance / independent, 1.0) + more / independent)


def proportion(
    success: ArrayLike, clusters: ArrayLike, *, more: float = 0.0, confidence: float = 0.95
) -> Interval:
    """The success rate of clustered rows with Wilson's interval at the effective size.

    It is Wilson's formula with n replaced by `effective_size`. Franco et al. (2019) compare eight
    intervals for clustered samples, and this is one of the two they recommend. They also find that
    each covers less than it claims when the design effect is estimated from the sample itself. The
    quantile here is the normal one, not Student's, so read an interval of fewer than about twenty
    prompts as a little too narrow.

    Args:
        success: Whether each row succeeded.
        clusters: The cluster label of each row: its prompt.
        more: Variance that is not the prompts', such as :func:`~bench.tables.repeats.between_repeats`.
        confidence: The two-sided confidence level.

    Returns:
        The rate over rows; all NaN where there are none.
    """
    y, codes, count = _clustered(_booleans(success), clusters)
    if not y.size:
        return Interval(math.nan, math.nan, math.nan, n=0, clusters=0)
    rate = float(y.mean())
    size = _effective(y, codes, count, more)
    low, high = wilson_bounds(rate * size, size, confidence=confidence)
    return Interval(rate, min(float(low), rate), max(float(high), rate), n=y.size, clusters=count)


def bootstrap_mean(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    rng: np.random.Generator | None = None,
    resamples: int = 10_000,
    more: float = 0.0,
    confidence: float = 0.95,
) -> Interval:
    """The mean over rows with a percentile interval from resampled clusters.

    Each resample draws G of the G clusters with replacement and keeps their rows whole (Davison and
    Hinkley 1997, section 3.8). Let T_g be the sum and N_g the number of rows of cluster g, and W_g
    how often it was drawn. The mean of the resample is Σ W_g T_g / Σ W_g N_g. Clusters that all
    have the same mean give an interval of width zero. With v ``more`` and z the normal quantile,
    each bound moves out to √((bound - mean)² + z²v) from the mean.

    Args:
        values: A finite number for each row.
        clusters: The cluster label of each row.
        rng: Where the resamples come from; its state is advanced. ``None``: those of seed 0, which are
            drawn once for all means over as many clusters.
        resamples: How many resamples to draw.
        more: Variance that is not the clusters', such as :func:`~bench.tables.repeats.between_repeats`.
        confidence: The two-sided confidence level.

    Returns:
        The mean over rows. The bounds are NaN for a single cluster, which says nothing about other
        clusters.

    Raises:
        ValueError: If a value is not finite: rows without a value have to be set aside, and
        counted, by the caller.
    """
    x, codes, count = _clustered(values, clusters)
    if not np.all(np.isfinite(x)):
        bad = int(np.sum(~np.isfinite(x)))
        raise ValueError(f"expected finite values, got {bad} of {x.size} not finite; drop them")
    if count < 2:
        value = float(x.mean()) if x.size else math.nan
        return Interval(value, math.nan, math.nan, n=x.size, clusters=count)
    # Around the mean, so that rows of one value give exactly that value.
    value = float(x.mean())
    totals = np.bincount(codes, weights=x - value, minlength=count)
    sizes = np.bincount(codes, minlength=count)
    drawn = _drawn(count, resamples) if rng is None else _draw(rng, count, resamples)
    draws = drawn.astype(np.float64)
    means = value + (draws @ totals) / (draws @ sizes)  # whole numbers stay exact
    tail = (1 - _checked(confidence)) / 2
    low, high = (float(q) for q in np.quantile(means, [tail, 1 - tail]))
    if more:
        apart = _z(confidence) * math.sqrt(more)
        low, high = value - math.hypot(value - low, apart), value + math.hypot(high - value, apart)
    return Interval(value, min(low, value), max(high, value), n=x.size, clusters=count)


def _draw(rng: np.random.Generator, count: int, resamples: int) -> NDArray[np.int64]:
    """How often each of the clusters is drawn in each resample [resamples, count]."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)


@lru_cache(maxsize=16)
def _drawn(count: int, resamples: int) -> NDArray[np.unsignedinteger]:
    """The same from seed 0, made once: to draw them took most of the time of an interval.

    They are kept in as few bytes as they fit in: a report has means over clusters of a dozen counts.
    """
    draws = _draw(np.random.default_rng(0), count, resamples)
    small = draws.astype(np.min_scalar_type(draws.max(initial=0)))
    small.setflags(write=False)
    return small


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95; got {confidence}")
    return confidence


def _z(confidence: float) -> float:
    if confidence == _USUAL:
        return _USUAL_Z
    from scipy.special import ndtri  # half a second to import, and no table needs it

    return float(ndtri((1 + _checked(confidence)) / 2))


def _booleans(success: ArrayLike) -> NDArray[np.bool_]:
    """The rows as booleans; a score or a NaN is refused rather than rounded."""
    y = np.asarray(success)
    if not np.all((y == 0) | (y == 1)):
        raise ValueError(
            "expected successes of 0 or 1; apply the judge's threshold to scores first"
        )
    return y.astype(np.bool_)


def _clustered(values: ArrayLike, clusters: ArrayLike) -> tuple[Floats, NDArray[np.intp], int]:
    """The values, each row's cluster as a number from 0, and how many clusters there are."""
    x, labels = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    if x.ndim != 1 or x.shape != labels.shape:
        raise ValueError(
            f"expected one cluster label per row, got values {x.shape}, labels {labels.shape}"
        )
    unique, codes = np.unique(labels, return_inverse=True)
    return x, codes, unique.size
