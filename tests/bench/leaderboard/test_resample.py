"""Sampling candidates again with the model: the rows' own scores come back, and others do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.errors import UsageError
from bench.leaderboard.protocol import plan_with
from bench.leaderboard.published_run import PublishedRun, read_run
from bench.leaderboard.resample import resample
from bench.leaderboard.resampled import Resampled
from bench.model.text_to_image import TextToImage
from bench.run.plan import Plan
from tests.bench.leaderboard.boards import RESULTS

METHOD = "negative_prompt"  # its edit takes no time


@pytest.fixture(scope="module")
def run() -> PublishedRun:
    return read_run(RESULTS / "mini-quick")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_with("mini-quick", METHOD)


@pytest.mark.slow
def test_scores_that_the_model_gives_come_back_and_others_are_found(
    run: PublishedRun, plan: Plan, miniature: TextToImage
) -> None:
    found = resample(run, plan, METHOD, miniature, share=0.03, seed=3)
    assert found.candidates == 9
    assert found.of == 276
    assert (found.utility, found.utility_of) == (7, 216)
    assert found.images >= 16
    assert list(found.left_out) == ["seed_search"]
    # Another processor rounds otherwise: an image or two may move, never most.
    assert len(found.apart) <= 2
    assert found.flipped <= 2
    upside_down = run.trials.assign(score=1 - run.trials["score"])
    useful = run.utility.assign(value=1 - run.utility["value"])
    lied = resample(replace(run, trials=upside_down), plan, METHOD, miniature, share=0.03, seed=3)
    assert len(lied.apart) > lied.images / 2
    kind = resample(replace(run, utility=useful), plan, METHOD, miniature, share=0.03, seed=3)
    assert len(kind.apart) >= kind.utility - 1
    with pytest.raises(UsageError, match=r"differ, e\.g\. trial negative_prompt"):
        lied.refuse(Path("entry.json"))


def test_a_few_images_may_move_on_another_machine_and_no_more() -> None:
    one = ["trial a / star / prompts / name-000: 0.600 in the rows, 0.400 again"]
    Resampled(images=20, apart=one).refuse(Path("entry.json"))
    with pytest.raises(UsageError, match="from 19 images sampled again, and 1 differ"):
        Resampled(images=19, apart=one).refuse(Path("entry.json"))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(
    run: PublishedRun, plan: Plan, miniature: TextToImage, share: float
) -> None:
    with pytest.raises(UsageError, match="expected a share above 0"):
        resample(run, plan, METHOD, miniature, share=share, seed=0)
