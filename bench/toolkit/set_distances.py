"""Distances of two sets of feature vectors, for many resamples of their rows at once.

References:
    Heusel et al. (2017), GANs trained by a two time-scale update rule. arXiv:1706.08500: FID.
    Gretton et al. (2012), A kernel two-sample test. JMLR 13: MMD and its estimators.
    Binkowski et al. (2018), Demystifying MMD GANs. arXiv:1801.01401: KID.
    Jayasumana et al. (2024), Rethinking FID. arXiv:2401.09603: CMMD.
    Kynkaanniemi et al. (2019), Improved precision and recall. arXiv:1904.06991.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["frechet", "gaussian", "inside", "mmd_biased", "mmd_unbiased", "polynomial"]

Floats = NDArray[np.float64]
Kernel = Callable[[Floats, Floats], Floats]
_BLOCK = 1024
_ROUNDING = 1e-12  # of the traces; what is below is no distance


def frechet(edited_ND: Floats, other_MD: Floats, counts: tuple[Floats, Floats]) -> Floats:
    """The Frechet distance of two Gaussians with the sets' means and covariances.

    With m and S of each set, and the unbiased S (divided by N - 1),

        |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

    For S1 = A'A and S2 = B'B the last trace is the sum of the singular values of A B'. So no square
    root of a matrix is taken, and sets with fewer rows than features are exact too.

    Args:
        edited_ND: One set.
        other_MD: The other.
        counts: How often each row is drawn, [R, N] and [R, M].

    Returns:
        [R], not below 0; NaN where a set has fewer than two rows.
    """
    return np.array([
        _frechet(_moments(edited_ND, first), _moments(other_MD, second))
        for first, second in zip(*counts, strict=True)
    ])  # fmt: skip


def _frechet(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> float:
    (mean_a, root_a), (mean_b, root_b) = first, second
    if not (np.isfinite(root_a).all() and np.isfinite(root_b).all()):
        return float("nan")
    cross = float(np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum())
    spread = float(np.square(root_a).sum() + np.square(root_b).sum())
    found = float(np.square(mean_a - mean_b).sum()) + spread - 2 * cross
    return found if found > _ROUNDING * spread else 0.0


def _moments(rows_ND: Floats, counts_N: Floats) -> tuple[Floats, Floats]:
    """The mean, and a root R of the covariance R'R with at most D rows."""
    drawn = counts_N > 0
    rows, weights = rows_ND[drawn], counts_N[drawn]
    total = float(weights.sum())
    if total < 2:
        return np.full(rows_ND.shape[1], np.nan), np.full((1, rows_ND.shape[1]), np.nan)
    mean = weights @ rows / total
    root = (rows - mean) * np.sqrt(weights / (total - 1))[:, None]
    if len(root) > root.shape[1]:
        root = np.asarray(np.linalg.qr(root, mode="r"), dtype=np.float64)
    return mean, root


def polynomial(a_ND: Floats, b_MD: Floats) -> Floats:
    """KID's kernel (a'b / D + 1)^3, [N, M]."""
    return (a_ND @ b_MD.T / a_ND.shape[1] + 1) ** 3


def gaussian(a_ND: Floats, b_MD: Floats, *, sigma: float) -> Floats:
    """The kernel exp(-|a - b|^2 / (2 sigma^2)), [N, M]."""
    squares = np.square(a_ND).sum(1)[:, None] + np.square(b_MD).sum(1) - 2 * a_ND @ b_MD.T
    return np.exp(-np.maximum(squares, 0) / (2 * sigma**2))


def mmd_unbiased(
    edited_ND: Floats,
    other_MD: Floats,
    counts: tuple[Floats, Floats],
    kernel: Kernel,
    *,
    paired: bool,
) -> Floats:
    """The squared maximum mean discrepancy, without bias; it may fall below 0.

    With the sums over pairs of different rows within a set, and over all pairs between the sets,

        sum k(x, x') / N(N-1) + sum k(y, y') / M(M-1) - 2 sum k(x, y) / NM

    Rows that are pairs depend on each other. Where ``paired``, row i of the one is not compared with
    row i of the other, and N(N-1) is below the last sum. That is Lemma 6 of Gretton et al. (2012). A set against
    itself is then 0. A row that is drawn twice is not compared with itself.

    Args:
        edited_ND: One set.
        other_MD: The other; where ``paired``, of as many rows.
        counts: How often each row is drawn, [R, N] and [R, M].
        kernel: Rows [n, D] and [m, D] -> [n, m].
        paired: Whether row i of the one belongs to row i of the other.

    Returns:
        [R]; NaN where a set has fewer than two different rows.
    """
    first, second = counts
    between = _form(edited_ND, other_MD, first, second, kernel)
    pairs = first.sum(1) * second.sum(1)
    if paired:
        same = (first * second) @ _diagonal(edited_ND, other_MD, kernel)
        between, pairs = between - same, pairs - (first * second).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            _within(edited_ND, first, kernel)
            + _within(other_MD, second, kernel)
            - 2 * between / pairs
        )


def mmd_biased(
    edited_ND: Floats, other_MD: Floats, counts: tuple[Floats, Floats], kernel: Kernel
) -> Floats:
    """The squared maximum mean discrepancy as means over all pairs, a row with itself among them.

    A set against itself is 0, and no value is below; see :func:`mmd_unbiased` for the arguments.
    """
    first, second = (c / c.sum(1, keepdims=True) for c in counts)
    own = _form(edited_ND, edited_ND, first, first, kernel)
    others = _form(other_MD, other_MD, second, second, kernel)
    between = _form(edited_ND, other_MD, first, second, kernel)
    return np.maximum(own + others - 2 * between, 0.0)


def _within(rows_ND: Floats, counts_RN: Floats, kernel: Kernel) -> Floats:
    """The mean of the kernel over pairs of different rows."""
    squares = np.square(counts_RN)
    alone = squares @ _diagonal(rows_ND, rows_ND, kernel)
    pairs = np.square(counts_RN.sum(1)) - squares.sum(1)
    return (_form(rows_ND, rows_ND, counts_RN, counts_RN, kernel) - alone) / pairs


def _form(
    a_ND: Floats, b_MD: Floats, first_RN: Floats, second_RM: Floats, kernel: Kernel
) -> Floats:
    """For each resample the sum of its counts times the kernel, block by block: [R]."""
    total = np.zeros(len(first_RN))
    for at in range(0, len(a_ND), _BLOCK):
        rows = slice(at, at + _BLOCK)
        total += ((first_RN[:, rows] @ kernel(a_ND[rows], b_MD)) * second_RM).sum(1)
    return total


def _diagonal(a_ND: Floats, b_ND: Floats, kernel: Kernel) -> Floats:
    """The kernel of each row with the row of the same number, [N]."""
    each = [kernel(a_ND[i : i + 1], b_ND[i : i + 1])[0, 0] for i in range(len(a_ND))]
    return np.array(each, dtype=np.float64)


def inside(rows_ND: Floats, others_MD: Floats, *, neighbours: int) -> Floats:
    """Whether each row lies in the manifold of the others, [N] of 0 and 1.

    It does where it is at most as far from one of them as that one is from its k-th nearest neighbour
    among them.

    Args:
        rows_ND: What is asked of.
        others_MD: More than ``neighbours`` rows.
        neighbours: k.
    """
    radii = np.concatenate([
        np.partition(_squares(others_MD[at : at + _BLOCK], others_MD), neighbours, axis=1)[:, neighbours]
        for at in range(0, len(others_MD), _BLOCK)
    ])  # fmt: skip
    blocks = (rows_ND[at : at + _BLOCK] for at in range(0, len(rows_ND), _BLOCK))
    # A row that is one of the others is as near as rounding lets it be.
    return np.concatenate([(_squares(b, others_MD) <= radii + 1e-9).any(1) for b in blocks]).astype(
        float
    )


def _squares(a_ND: Floats, b_MD: Floats) -> Floats:
    """Squared distances [N, M]."""
    found = np.square(a_ND).sum(1)[:, None] + np.square(b_MD).sum(1) - 2 * a_ND @ b_MD.T
    return np.maximum(found, 0.0)
