"""Intervals over several trainings of an edit, against answers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.tables.headline import repeats_said
from bench.tables.repeats import between_repeats, clustered
from bench.tables.schema import TABLE
from bench.tables.stats import bootstrap_mean, proportion
from tests.bench.report.test_report import table_of, trial, utility_row


def test_the_formula_on_rows_written_out() -> None:
    # Two repeats, two prompts. z = 1 and -1 per repeat, four cells of 0.5: 2 · 2/16 - 4/3 · 1/16.
    found = between_repeats([1, 1, 0, 0], [0, 1, 0, 1], ["a"] * 4, [0, 0, 1, 1])
    assert found == pytest.approx(2 * 2 / 16 - 4 / 3 / 16)


def test_repeats_that_agree_add_nothing() -> None:
    assert between_repeats([1, 0, 1, 0], [0, 1, 0, 1], ["a"] * 4, [0, 0, 1, 1]) == 0


def test_a_difference_between_concepts_is_none_between_repeats() -> None:
    concepts, repeats = np.repeat(["a", "b"], 4), np.tile([0, 0, 1, 1], 2)
    assert between_repeats([1] * 4 + [0] * 4, np.arange(8), concepts, repeats) == 0


def test_a_concept_with_one_repeat_adds_nothing_to_the_others() -> None:
    concepts, repeats = ["a"] * 4 + ["b"] * 4, [0, 0, 1, 1, 0, 0, 0, 0]
    values, prompts = [1, 1, 0, 0, 1, 0, 0, 0], [0, 1, 0, 1, 2, 3, 4, 5]
    alone = between_repeats(values[:4], prompts[:4], concepts[:4], repeats[:4])
    assert between_repeats(values, prompts, concepts, repeats) == pytest.approx(alone / 4)


def test_labels_may_be_anything_and_rows_in_any_order() -> None:
    rng = np.random.default_rng(0)
    values, prompts = rng.random(60), rng.integers(0, 7, 60)
    concepts, repeats = rng.integers(0, 2, 60), rng.integers(0, 3, 60)
    order = rng.permutation(60)
    named = np.array(["x", "y"])[concepts]
    found = between_repeats(values, prompts, concepts, repeats)
    other = between_repeats(values[order], prompts[order] * 9 + 3, named[order], -repeats[order])
    assert other == pytest.approx(found)


def test_one_repeat_leaves_every_interval_as_it_was() -> None:
    rng = np.random.default_rng(1)
    values, prompts, once = (rng.random(80) < 0.4).astype(float), np.repeat(range(20), 4), [0] * 80
    assert clustered(values, prompts, once, once) == proportion(values, prompts)
    lengths = rng.random(80)
    expected = bootstrap_mean(lengths, prompts, resamples=2000)
    assert clustered(lengths, prompts, once, once) == expected


@pytest.mark.parametrize("repeats", [4, 8])
def test_the_interval_covers_where_one_over_prompts_alone_does_not(repeats: int) -> None:
    # Each training has its own success rate, from a beta around one half: most of them hold or do not.
    rng = np.random.default_rng(20261129)
    trials, prompts, seeds = 400, 12, 2
    rate = rng.beta(0.5, 0.5, size=(trials, repeats, 1, 1))
    hits = (rng.random((trials, repeats, prompts, seeds)) < rate).reshape(trials, -1).astype(float)
    repeat, prompt, _ = (axis.ravel() for axis in np.indices((repeats, prompts, seeds)))
    once = np.zeros(len(repeat))
    with_repeats = [clustered(y, prompt, once, repeat) for y in hits]
    alone = [proportion(y, prompt) for y in hits]
    covers, misses = (
        np.mean([i.low <= 0.5 <= i.high for i in found]) for found in (with_repeats, alone)
    )
    assert covers >= 0.87
    assert misses <= 0.5


def test_without_a_difference_the_interval_stays_nearly_as_narrow() -> None:
    rng = np.random.default_rng(2)
    hits = (rng.random((300, 4 * 12 * 2)) < 0.5).astype(float)
    repeat, prompt, _ = (axis.ravel() for axis in np.indices((4, 12, 2)))
    wide = [clustered(y, prompt, np.zeros(96), repeat) for y in hits]
    narrow = [proportion(y, prompt) for y in hits]
    ratio = np.mean([i.high - i.low for i in wide]) / np.mean([i.high - i.low for i in narrow])
    assert 1 <= ratio < 1.3


def rows_of(rates: list[float]) -> list[dict[str, object]]:
    return [
        trial(goal=f"name/{goal}", repeat=repeat, score=0.9 if goal < 24 * rate else 0.1)
        for repeat, rate in enumerate(rates)
        for goal in range(24)
    ]


def test_the_table_says_how_far_trainings_are_apart() -> None:
    line = table_of(rows_of([0, 0.08, 1, 0.98])).iloc[0]
    assert line["asr_low"] < 0.2
    assert line["asr_high"] > 0.8
    alike = table_of(rows_of([0.5] * 4)).iloc[0]
    assert alike["asr_high"] - alike["asr_low"] < 0.5


def test_retained_accuracy_takes_repeats_for_clusters() -> None:
    trials = rows_of([0.5, 0.5])
    rows = [
        utility_row(prompt=f"p{prompt}", repeat=repeat, value=float(repeat == 0))
        for prompt in range(20)
        for repeat in range(2)
    ]
    # The same values, of which every prompt has one in each repeat.
    mixed = [row | {"value": float((i // 2 + i) % 2)} for i, row in enumerate(rows)]
    apart, alike = (table_of(trials, part).iloc[0] for part in (rows, mixed))
    assert apart["retained_accuracy"] == alike["retained_accuracy"] == 0.5
    assert apart["retained_high"] - apart["retained_low"] > 0.6
    assert alike["retained_high"] - alike["retained_low"] < 0.4


def test_a_report_says_how_often_each_edit_was_made() -> None:
    assert repeats_said(table_of(rows_of([0.5]))).startswith("Each edit was made once.")
    assert repeats_said(table_of(rows_of([0.5, 0.5]))).startswith("Each edit was made 2 times.")
    assert repeats_said(TABLE.empty()) == ""
