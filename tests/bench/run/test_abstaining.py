"""A judge that has nothing to judge abstains: the image is counted, and in no rate."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from bench.config.suite import load_suite
from bench.interfaces import Concept, Judge
from bench.model.text_to_image import TextToImage
from bench.run.collect import collect
from bench.run.plan import make_plan
from bench.run.runner import run_plan
from bench.run.store import Store
from bench.tables.agreement import agreement
from bench.tables.tables import summarise
from tests.bench.run.test_scores import FIELDS


class HalfBlind(Judge):
    """Sees the concept in every second image, and nothing at all in the others."""

    name: ClassVar[str] = "half_blind"
    abstains: ClassVar[bool] = True

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        scores = torch.full((len(images_B3HW), 1), 0.9)
        scores[1::2] = torch.nan
        return scores


def test_an_image_that_a_judge_abstains_from_is_in_no_rate(
    miniature: TextToImage, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    own = f"{HalfBlind.__module__}:{HalfBlind.__name__}"
    suite = load_suite("mini-quick").with_(**FIELDS | {"judges": ["mini_judge", own]})
    plan = make_plan(suite, miniature.backbone.digest)
    assert not run_plan(plan, store, miniature).failed
    found = collect(plan, store)
    assert found.errors == [], "to abstain is no error"
    rows = found.trials[found.trials["judge"] == "half_blind"]
    assert set(rows["status"]) == {"ok", "abstained"}
    assert set(rows.loc[rows["status"] == "abstained", "reason"]) == {""}
    table = summarise(found.trials, found.utility, edits=found.edits, suite="tiny")
    mine = table[table["judge"] == "half_blind"]
    assert (mine["abstained"] > 0).any()
    assert (mine["n"] + mine["errors"] + mine["abstained"] == mine["attempted"]).all()
    assert (mine["asr"] == 1).all()
    first = agreement(found.trials, "tiny").iloc[0]
    assert first["n"] == (rows["status"] == "ok").sum()
