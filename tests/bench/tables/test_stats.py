from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from bench.tables.stats import (
    Interval,
    bootstrap_mean,
    effective_size,
    proportion,
    wilson,
    wilson_bounds,
)

counts = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
rows = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=60)


def grid(prompts: int, seeds: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """The prompt of each row, for a full grid."""
    return np.repeat(np.arange(prompts), seeds)


def keyed(success: list[bool], prompts: int) -> pd.Series[bool]:
    seeds = len(success) // prompts
    keys = pd.MultiIndex.from_product(
        [[f"p{i}" for i in range(prompts)], range(seeds)], names=["prompt", "seed"]
    )
    return pd.Series(success, index=keys)


def assert_ordered(interval: Interval, bottom: float = 0.0) -> None:
    assert bottom <= interval.low <= interval.value <= interval.high <= 1.0


# --- Wilson


@pytest.mark.parametrize(
    ("successes", "n", "percent"),
    [
        (30, 142, (21.1, 15.2, 28.6)),
        (3, 50, (6.0, 2.1, 16.2)),
        (30, 50, (60.0, 46.2, 72.4)),
        (7, 15, (46.7, 24.8, 69.9)),
    ],
)
def test_wilson_known_answers(successes: int, n: int, percent: tuple[float, float, float]) -> None:
    interval = wilson(successes, n)
    got = (interval.value, interval.low, interval.high)
    assert tuple(round(100 * x, 1) for x in got) == percent


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(count: tuple[int, int], confidence: float) -> None:
    expected = binomtest(*count).proportion_ci(confidence, method="wilson")
    interval = wilson(*count, confidence=confidence)
    assert interval.low == pytest.approx(expected.low, abs=1e-12)
    assert interval.high == pytest.approx(expected.high, abs=1e-12)
    assert_ordered(interval)


@given(st.integers(1, 200))
def test_wilson_rises_with_successes_and_mirrors_failures(n: int) -> None:
    low, high = wilson_bounds(np.arange(n + 1), n)
    assert np.all(np.diff(low) > 0)
    assert np.all(np.diff(high) > 0)
    np.testing.assert_allclose(low, 1 - high[::-1], atol=1e-12)


@given(counts, st.integers(2, 10))
def test_wilson_narrows_with_rows(count: tuple[int, int], times: int) -> None:
    (low, more_low), (high, more_high) = wilson_bounds(
        np.multiply(count[0], [1, times]), np.multiply(count[1], [1, times])
    )
    assert more_high - more_low < high - low


def test_wilson_ends_and_empty() -> None:
    low, high = wilson_bounds([0, 20, 0], [20, 20, 0])
    assert low[0] == 0.0
    assert high[0] == pytest.approx(0.1611, abs=1e-4)
    assert high[1] == 1.0
    assert low[1] == pytest.approx(0.8389, abs=1e-4)
    assert np.isnan([low[2], high[2]]).all()
    assert math.isnan(wilson(0, 0).value)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2), (math.nan, 2)])
def test_wilson_refuses_impossible_counts(successes: float, n: float) -> None:
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson_bounds(successes, n)


def test_confidence_is_a_fraction() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson(1, 2, confidence=95)


# --- proportions of clustered rows


@given(rows)
def test_proportion_is_an_interval(data: list[tuple[bool, int]]) -> None:
    success, clusters = zip(*data, strict=True)
    interval = proportion(success, clusters)
    assert_ordered(interval)
    assert interval.value == pytest.approx(sum(success) / len(success))
    assert (interval.n, interval.clusters) == (len(success), len(set(clusters)))
    assert 0 < effective_size(success, clusters) <= len(success)


@given(rows, st.integers(0, 2**32))
def test_proportion_ignores_order_and_labels(data: list[tuple[bool, int]], seed: int) -> None:
    success, clusters = zip(*data, strict=True)
    order = np.random.default_rng(seed).permutation(len(data))
    named = np.array([f"prompt {c}" for c in clusters])
    a = proportion(success, clusters)
    b = proportion(np.array(success)[order], named[order])
    assert (a.low, a.high) == pytest.approx((b.low, b.high))


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_one_row_a_cluster_is_plain_wilson(success: list[bool]) -> None:
    n = len(success)
    clustered, plain = proportion(success, range(n)), wilson(sum(success), n)
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high))


def test_identical_rows_are_worth_about_their_clusters() -> None:
    success = np.repeat([True, False, True, False, False], 10)
    assert effective_size(success, grid(5, 10)) == pytest.approx(50 * 4 / 49)


def test_design_effect_by_hand() -> None:
    # p = 1/2; cluster residual sums 1, 0, -1: V = 3/2 · 2/36, against 1/4 / 5.
    success = [True, True, True, False, False, False]
    assert effective_size(success, [0, 0, 1, 1, 2, 2]) == pytest.approx(6 / (5 / 3))


@pytest.mark.parametrize("outcome", [False, True])
def test_unanimous_rows_count_prompts_not_seeds(outcome: bool) -> None:
    interval = proportion([outcome] * 200, grid(20, 10))
    plain = wilson(20 * outcome, 20)
    assert (interval.low, interval.high) == (plain.low, plain.high)
    assert (interval.n, interval.clusters) == (200, 20)


def test_a_single_prompt_is_worth_one_row() -> None:
    interval = proportion([True, False] * 50, [0] * 100)
    assert interval.low < 0.06
    assert interval.high > 0.94


def test_no_rows() -> None:
    interval = proportion([], [])
    assert np.isnan([interval.value, interval.low, interval.high]).all()
    assert (interval.n, interval.clusters) == (0, 0)


def test_scores_are_not_successes() -> None:
    with pytest.raises(ValueError, match="threshold"):
        proportion([0.3, 0.9], [0, 1])
    with pytest.raises(ValueError, match="threshold"):
        proportion([1.0, math.nan], [0, 1])


def test_labels_match_rows() -> None:
    with pytest.raises(ValueError, match="one cluster label per row"):
        proportion([True, False], [0, 1, 2])


@pytest.mark.parametrize("prompts", [20, 60])
@pytest.mark.parametrize("mean", [0.2, 0.5])
def test_clustered_interval_covers_where_plain_wilson_does_not(prompts: int, mean: float) -> None:
    # Each prompt has its own success rate, from a beta with intra-cluster correlation 1/3.
    rng = np.random.default_rng(20260101)
    seeds, trials = 8, 400
    rates = rng.beta(2 * mean, 2 * (1 - mean), size=(trials, prompts))
    successes = rng.random((trials, prompts, seeds)) < rates[:, :, None]

    def covers(interval: Interval) -> bool:
        return interval.low <= mean <= interval.high

    flat, labels = successes.reshape(trials, -1), grid(prompts, seeds)
    clustered = np.mean([covers(proportion(y, labels)) for y in flat])
    plain = np.mean([covers(wilson(int(y.sum()), y.size)) for y in flat])
    assert clustered >= 0.90
    assert plain <= 0.80


def test_a_rare_total_failure_is_covered_at_zero() -> None:
    # One prompt in twenty always succeeds: plain Wilson on 0/200 would exclude the true 5 %.
    assert proportion([False] * 200, grid(20, 10)).high > 0.05 > wilson(0, 200).high


# --- bootstrap


def test_bootstrap_is_deterministic_and_resamples_clusters() -> None:
    rng = np.random.default_rng(5)
    prompts, seeds = 40, 6
    values = (rng.normal(size=(prompts, 1)) + 0.1 * rng.normal(size=(prompts, seeds))).ravel()
    first, again = (
        bootstrap_mean(values, grid(prompts, seeds), rng=np.random.default_rng(1)) for _ in range(2)
    )
    assert first == again
    assert first.low < first.value < first.high
    # Seeds add nothing here: the width is that of 40 prompt means, not of 240 rows.
    means = values.reshape(prompts, seeds).mean(axis=1)
    expected = 2 * 1.96 * means.std() / math.sqrt(prompts)
    assert first.high - first.low == pytest.approx(expected, rel=0.1)


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 5)), min_size=1, max_size=40),
    st.integers(0, 2**32),
)
def test_bootstrap_contains_the_mean(data: list[tuple[float, int]], seed: int) -> None:
    values, clusters = zip(*data, strict=True)
    rng = np.random.default_rng(seed)
    interval = bootstrap_mean(values, clusters, rng=rng, resamples=200)
    assert interval.value == pytest.approx(np.mean(values))
    if len(set(clusters)) == 1:
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
    else:
        assert interval.low <= interval.value <= interval.high


def test_bootstrap_weights_rows_in_unequal_clusters() -> None:
    interval = bootstrap_mean([1.0, 0.0, 0.0, 0.0], [0, 1, 1, 1], rng=np.random.default_rng(0))
    assert (interval.low, interval.value, interval.high) == (0.0, 0.25, 1.0)


def test_bootstrap_without_a_generator_draws_those_of_seed_0_whoever_asked_before() -> None:
    values, clusters = np.arange(12.0) ** 2, np.arange(12) // 2
    said = bootstrap_mean(values, clusters, rng=np.random.default_rng(0), resamples=300)
    for _ in range(2):
        assert bootstrap_mean(values, clusters, resamples=300) == said
        assert bootstrap_mean(values, np.arange(12), resamples=300) != said


def test_bootstrap_of_nothing_and_of_nan() -> None:
    rng = np.random.default_rng(0)
    assert math.isnan(bootstrap_mean([], [], rng=rng).value)
    with pytest.raises(ValueError, match="1 of 2 not finite"):
        bootstrap_mean([1.0, math.nan], [0, 1], rng=rng)
