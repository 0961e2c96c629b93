"""Distances of sets: known answers, and formulas worked out another way on the same features."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from bench.toolkit.resamples import draws, estimated
from bench.toolkit.set_distances import (
    frechet,
    gaussian,
    inside,
    mmd_biased,
    mmd_unbiased,
    polynomial,
)

Floats = NDArray[np.float64]
RBF = partial(gaussian, sigma=2.0)


def normal(rows: int, width: int, *, seed: int, mean: float = 0.0, scale: float = 1.0) -> Floats:
    return np.random.default_rng(seed).normal(mean, scale, (rows, width))


def once(*sets: Floats) -> tuple[Floats, Floats]:
    first, second = (np.ones((1, len(rows))) for rows in sets)
    return first, second


# --- FID


@pytest.mark.parametrize(("rows", "width"), [(200, 6), (7, 40)])
def test_frechet_is_the_formula_with_the_root_of_a_matrix(rows: int, width: int) -> None:
    a, b = normal(rows, width, seed=1), normal(rows + 5, width, seed=2, mean=0.3, scale=1.4)
    # The root of a singular matrix needs the usual little ridge, which costs digits.
    ridge = 0.0 if rows > width else 1e-9
    s, t = (np.cov(x, rowvar=False) + ridge * np.eye(width) for x in (a, b))
    root = np.trace(np.real(np.asarray(sqrtm(s @ t))))
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * root
    assert frechet(a, b, once(a, b))[0] == pytest.approx(expected, rel=1e-3)


def test_frechet_of_shifted_and_scaled_sets_is_known() -> None:
    a = normal(50, 4, seed=3)
    assert frechet(a, a, once(a, a))[0] == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + 2, once(a, a))[0] == pytest.approx(4 * 2**2)
    spread = np.trace(np.cov(a, rowvar=False))
    grown = a.mean(0) + 3 * (a - a.mean(0))
    assert frechet(a, grown, once(a, a))[0] == pytest.approx(4 * spread)


def test_a_count_is_a_repeated_row() -> None:
    a, b = normal(6, 3, seed=4), normal(5, 3, seed=5)
    counts = np.array([[2.0, 0, 1, 1, 0, 2]]), np.array([[1.0, 1, 1, 0, 2]])
    c, d = (np.repeat(x, n[0].astype(int), axis=0) for x, n in zip((a, b), counts, strict=True))
    assert frechet(a, b, counts) == pytest.approx(frechet(c, d, once(c, d)))
    assert mmd_biased(a, b, counts, RBF) == pytest.approx(mmd_biased(c, d, once(c, d), RBF))


def test_frechet_falls_with_more_images_of_one_source() -> None:
    few, many = (normal(n, 16, seed=n) for n in (20, 2000))
    others = [normal(n, 16, seed=n + 1) for n in (20, 2000)]
    small, large = (
        float(frechet(x, y, once(x, y))[0]) for x, y in zip((few, many), others, strict=True)
    )
    assert small > 10 * large, "the bias that docs/metrics.md states"


# --- MMD


def by_hand(a: Floats, b: Floats) -> float:
    """KID's estimator in the plainest words."""
    n, m, width = len(a), len(b), a.shape[1]
    k = lambda x, y: (float(x @ y) / width + 1) ** 3  # noqa: E731
    own = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    others = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own + others - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_kid_is_its_formula() -> None:
    a, b = normal(9, 5, seed=6), normal(7, 5, seed=7, mean=0.5)
    got = mmd_unbiased(a, b, once(a, b), polynomial, paired=False)[0]
    assert got == pytest.approx(by_hand(a, b), rel=1e-9)


def test_pairs_are_left_out_of_the_cross_term() -> None:
    a = normal(30, 5, seed=8)
    assert mmd_unbiased(a, a, once(a, a), polynomial, paired=True)[0] == pytest.approx(0, abs=1e-12)
    assert mmd_unbiased(a, a, once(a, a), polynomial, paired=False)[0] < 0
    counts = draws(range(30), 20, np.random.default_rng(0))
    assert np.abs(mmd_unbiased(a, a, (counts, counts), polynomial, paired=True)).max() < 1e-12


def test_kid_of_one_source_is_0_on_average() -> None:
    values = [
        mmd_unbiased(a, b, once(a, b), polynomial, paired=False)[0]
        for a, b in ((normal(40, 8, seed=s), normal(40, 8, seed=1000 + s)) for s in range(100))
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_cmmd_is_the_mean_over_all_pairs() -> None:
    a, b = normal(8, 4, seed=9), normal(6, 4, seed=10, mean=1)
    k = lambda x, y: np.exp(-np.square(x - y).sum() / (2 * 2.0**2))  # noqa: E731
    expected = (
        np.mean([k(x, y) for x in a for y in a])
        + np.mean([k(x, y) for x in b for y in b])
        - 2 * np.mean([k(x, y) for x in a for y in b])
    )
    assert mmd_biased(a, b, once(a, b), RBF)[0] == pytest.approx(expected)
    assert mmd_biased(a, a, once(a, a), RBF)[0] == pytest.approx(0, abs=1e-12)


def test_blocks_change_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(23, 4, seed=11), normal(19, 4, seed=12)
    whole = mmd_unbiased(a, b, once(a, b), polynomial, paired=False)
    lies = inside(a, b, neighbours=3)
    monkeypatch.setattr("bench.toolkit.set_distances._BLOCK", 5)
    assert mmd_unbiased(a, b, once(a, b), polynomial, paired=False) == pytest.approx(whole)
    assert inside(a, b, neighbours=3).tolist() == lies.tolist()


# --- precision and recall


def test_a_row_is_inside_the_ball_of_another() -> None:
    line = np.arange(5.0)[:, None]  # each is 1 from its nearest neighbour
    asked = np.array([[0.5], [4.9], [5.1], [-3.0]])
    assert inside(asked, line, neighbours=1).tolist() == [1, 1, 0, 0]
    assert inside(asked, line, neighbours=2).tolist() == [1, 1, 1, 0]
    assert inside(line, line, neighbours=1).all()


# --- resamples


def test_whole_prompts_are_drawn() -> None:
    counts = draws(["a", "a", "b", "c"], 50, np.random.default_rng(0))
    assert counts.shape == (51, 4)
    assert counts[0].tolist() == [1, 1, 1, 1]
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[1:, 0] + counts[1:, 2] + counts[1:, 3] == 3).all()


def test_the_interval_lies_around_the_value() -> None:
    one = estimated(np.array([5.0, 8, 9, 10, 11, 12]))
    assert (one.value, one.low, one.high) == pytest.approx((5, 5 - 1.9, 5 + 1.9))
    assert estimated(np.array([0.5, 8, 12]), least=0).low == 0
    assert np.isnan(estimated(np.array([1.0])).low)


def test_the_interval_covers_what_many_samples_show() -> None:
    """Of FID between two sources, at one number of images: the mean over samples, in most intervals."""

    def sample(seed: int) -> tuple[Floats, Floats]:
        return normal(60, 3, seed=seed), normal(60, 3, seed=5000 + seed, mean=1)

    mean = np.mean([frechet(*s, once(*s))[0] for s in map(sample, range(300))])
    covered = 0
    for seed in range(1000, 1060):
        a, b = sample(seed)
        rng = np.random.default_rng(seed)
        counts = draws(range(60), 100, rng), draws(range(60), 100, rng)
        one = estimated(frechet(a, b, counts), least=0)
        covered += one.low <= mean <= one.high
    assert covered >= 50, "of 60"


def test_torchmetrics_agrees() -> None:
    a, b = normal(300, 12, seed=20), normal(300, 12, seed=21, mean=0.4)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    theirs = float(_compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()))
    assert frechet(a, b, once(a, b))[0] == pytest.approx(theirs, rel=1e-3)
    ours = mmd_unbiased(a, b, once(a, b), polynomial, paired=False)[0]
    assert ours == pytest.approx(float(poly_mmd(x, y)), rel=1e-3)
