"""How far repeats of one edit are apart, beyond what their prompts and noises explain.

An edit that trains ends elsewhere with every training seed. Images of one training share it, as
images of one prompt share the prompt. An interval over prompts alone would count four trainings as
four times the evidence.

References:
    Cameron, Gelbach and Miller (2011), Robust inference with multiway clustering. Journal of
        Business and Economic Statistics 29.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.tables.stats import Interval, bootstrap_mean, proportion

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["between_repeats", "clustered"]


def between_repeats(
    values: ArrayLike, clusters: ArrayLike, concepts: ArrayLike, repeats: ArrayLike
) -> float:
    """The variance that differences between repeats add to the mean of the rows.

    A repeat of one concept's edit is a cluster, as a prompt is. For rows in both kinds of clusters
    (Cameron, Gelbach and Miller 2011) the variance of the mean is

        V_prompt + V_repeat - V_both

    where V_both takes the rows that share prompt and repeat. This is V_repeat - V_both, or 0 where
    that is negative. Let z be the sum over a cluster of (y - the mean of its concept). With R
    clusters in a concept and n rows in all, V = Σ_concepts R/(R-1) Σ z² / n². Concepts with one
    repeat add nothing: nothing is known of another training there.

    Two repeats estimate it poorly: the chance that they happen to agree is large.

    Args:
        values: A finite number for each row.
        clusters: The prompt of each row.
        concepts: The concept whose edit the row was taken on.
        repeats: Which repetition of that edit.

    Returns:
        The variance to add, in squared units of the values; 0 without repeats.
    """
    y, which = np.asarray(values, dtype=np.float64), np.asarray(repeats)
    if not y.size or bool((which == which[0]).all()):  # as in most suites: nothing to sort
        return 0.0
    stratum = _codes(np.asarray(concepts))
    edit = _codes(stratum, which)
    mean = np.bincount(stratum, weights=y) / np.bincount(stratum)
    z = y - mean[stratum]
    repeated = np.bincount(stratum[np.unique(edit, return_index=True)[1]]) > 1
    both = _codes(edit, np.asarray(clusters))
    z = np.where(repeated[stratum], z, 0.0)
    apart = _squares(z, edit, stratum) - _squares(z, both, stratum)
    return max(apart, 0.0) / y.size**2


def clustered(
    values: NDArray[np.float64], clusters: ArrayLike, concepts: ArrayLike, repeats: ArrayLike
) -> Interval:
    """The mean of rows in prompts and repeats; a proportion where the values are 0 or 1.

    The arguments are those of :func:`between_repeats`.
    """
    more = between_repeats(values, clusters, concepts, repeats)
    if bool(((values == 0) | (values == 1)).all()):
        return proportion(values, clusters, more=more)
    return bootstrap_mean(values, clusters, resamples=2000, more=more)


def _codes(*labels: NDArray[np.generic]) -> NDArray[np.intp]:
    """A number from 0 for each combination of labels, in their order."""
    codes = np.unique(labels[0], return_inverse=True)[1].astype(np.intp)
    for more in labels[1:]:
        inner = np.unique(more, return_inverse=True)[1]
        joined = codes * (int(inner.max(initial=0)) + 1) + inner
        codes = np.unique(joined, return_inverse=True)[1].astype(np.intp)
    return codes


def _squares(z: NDArray[np.float64], clusters: NDArray[np.intp], strata: NDArray[np.intp]) -> float:
    """The sum over strata of R/(R-1) times the squared sums of their R clusters."""
    sums = np.bincount(clusters, weights=z)
    of = strata[np.unique(clusters, return_index=True)[1]]
    count = np.bincount(of)
    squares = np.bincount(of, weights=sums**2)
    return float((squares * count / np.maximum(count - 1, 1)).sum())
