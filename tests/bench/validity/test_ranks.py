from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.core.rng import generator_for
from bench.validity.ranks import agreement


def test_rho_is_spearmans_with_ties() -> None:
    import torch

    for case in range(20):
        a, b = torch.randint(0, 6, (2, 9), generator=generator_for("ranks", case)).tolist()
        assert agreement(a, b).rho == pytest.approx(stats.spearmanr(a, b).statistic)


def test_the_interval_is_bonett_and_wrights() -> None:
    found = agreement([1, 2, 3, 4, 5, 6], [2, 1, 3, 4, 6, 5])
    rho = 1 - 6 * 4 / (6 * 35)
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / 3)
    assert found.rho == pytest.approx(rho)
    assert found.low == pytest.approx(math.tanh(math.atanh(rho) - half))
    assert found.high == pytest.approx(math.tanh(math.atanh(rho) + half))


def test_a_perfect_order_has_an_interval_up_to_the_end() -> None:
    good, bad = agreement(range(5), range(5)), agreement(range(5), range(5, 0, -1))
    assert (good.rho, good.high) == (1, 1)
    assert (bad.rho, bad.low) == (-1, -1)
    assert good.low == pytest.approx(-bad.high)
    assert -0.5 < good.low < 0.9


def test_the_test_counts_the_orders_that_agree_at_least_as_well() -> None:
    assert agreement(range(5), range(5)).p == pytest.approx(1 / 120)
    assert agreement(range(5), [1, 0, 2, 3, 4]).p == pytest.approx(
        5 / 120
    )  # the order itself and 4
    assert agreement(range(5), range(5, 0, -1)).p == 1


def test_many_methods_have_a_drawn_test() -> None:
    found = agreement(range(12), range(12))
    assert 0 < found.p < 1e-3
    assert found == agreement(range(12), range(12))


def test_a_side_without_an_order_has_no_correlation() -> None:
    assert math.isnan(agreement([1] * 5, range(5)).rho)


@pytest.mark.parametrize(
    ("a", "b"), [([1, 2, 3], [1, 2, 3]), (range(5), range(6)), ([1, 2, 3, 4, np.nan], range(5))]
)
def test_too_few_or_missing_values_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        agreement(a, b)
