"""Cohen's kappa against statsmodels, and the lines that the rows give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench.report.disagreements import disagreements
from bench.tables.agreement import agreement, agreement_to_markdown, kappa
from bench.tables.schema import TRIALS, conform
from tests.bench.report.test_report import frame
from tests.bench.tables.test_worst import tried


def test_kappa_is_statsmodels() -> None:
    from statsmodels.stats.inter_rater import cohens_kappa

    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(0, 30, 4).astype(float)
        theirs = cohens_kappa(counts.reshape(2, 2)).kappa
        assert float(kappa(counts)) == pytest.approx(theirs)


def test_known_kappas() -> None:
    assert float(kappa(np.array([20.0, 5, 10, 15]))) == pytest.approx(0.4)
    assert float(kappa(np.array([7.0, 0, 0, 3]))) == pytest.approx(1)
    assert float(kappa(np.array([0.0, 5, 5, 0]))) == pytest.approx(-1)
    assert np.isnan(kappa(np.array([9.0, 0, 0, 0]))), (
        "one answer throughout leaves nothing to explain"
    )
    assert np.isnan(kappa(np.zeros(4)))


def two_judges() -> pd.DataFrame:
    """Ten images; the second judge differs on the first two, and did not judge the last."""
    rows = frame(tried("ABCDEFGHIJ"), TRIALS)
    rows = rows[rows["attack"] == rows["attack"].iloc[0]].reset_index(drop=True)
    assert len(rows) >= 10
    seen = np.arange(len(rows)) % 2 == 0
    rows["score"] = np.where(seen, 0.9, 0.1).astype(np.float32)
    rows["judge"], rows["threshold"] = "one", np.float32(0.5)
    other = rows.assign(judge="two")
    other.loc[:1, "score"] = np.float32(1) - rows.loc[:1, "score"]
    other.loc[len(rows) - 1, ["status", "score"]] = ["abstained", np.nan]
    return conform(pd.concat([rows, other], ignore_index=True), TRIALS)


def test_lines_count_the_images_that_both_judged() -> None:
    rows = two_judges()
    count = len(rows) // 2 - 1
    lines = agreement(rows, "tiny")
    first = lines.iloc[0]
    assert (first["method"], first["concept"], first["judge"], first["other"]) == (
        "all",
        "all",
        "one",
        "two",
    )
    assert first["n"] == count == first[["both", "judge_only", "other_only", "neither"]].sum()
    assert (first["judge_only"], first["other_only"]) == (1, 1)
    assert first["agreement"] == pytest.approx(1 - 2 / count)
    expected = kappa(first[["both", "judge_only", "other_only", "neither"]].to_numpy(float))
    assert first["kappa"] == pytest.approx(float(expected))
    assert first["kappa_low"] <= first["kappa"] <= first["kappa_high"]
    assert "| one | two | all methods |" in agreement_to_markdown(lines)


def test_one_judge_has_nobody_to_agree_with() -> None:
    rows = two_judges()
    alone = agreement(rows[rows["judge"] == "one"], "tiny")
    assert not len(alone) and agreement_to_markdown(alone) == ""


def test_pictures_show_on_which_images_they_differ() -> None:
    rows = two_judges()
    mine = rows[rows["judge"] == "one"].reset_index(drop=True)
    keys = list(mine[["trial_digest", "candidate", "draw"]].itertuples(index=False, name=None))
    concept, key = mine["concept"].iloc[0], (mine["method"].iloc[0], mine["attack"].iloc[0])
    pictures = {concept: {key: [np.full((8, 8, 3), n, np.uint8) for n in range(len(keys))]}}
    prompts = {concept: {key: [f"prompt {n}" for n in range(len(keys))]}}
    shown = disagreements(pictures, {concept: {key: keys}}, prompts, rows)
    assert [(s.sees, s.misses, s.prompt) for s in shown] == [
        ("one", "two", "prompt 0"),
        ("two", "one", "prompt 1"),
    ]
    assert shown[0].score == pytest.approx(0.9) and shown[0].other_score == pytest.approx(0.1)
    assert all(s.picture.startswith("data:image/webp;base64,") for s in shown)
    assert disagreements(pictures, {concept: {key: keys}}, prompts, mine) == []
