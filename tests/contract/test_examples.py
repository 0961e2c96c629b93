"""The pages for authors: their examples are short, and evaluated as any other plug-in from a suite."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from bench.config.suite import Suite, load_suite
from bench.core.errors import UsageError
from bench.core.spec import Spec
from bench.interfaces import Attack, Erasure, Judge, Metric, SetMetric, UtilityBatch, registry
from bench.model.text_to_image import TextToImage
from bench.publish import Asked, publish
from bench.run.collect import collect
from bench.run.plan import make_plan
from bench.run.runner import run_plan
from bench.run.store import Store
from tests.contract.examples import PAGES, documented, example, page

_MOST_LINES = {Erasure: 100, Attack: 100, Judge: 39, Metric: 39, SetMetric: 39}


@pytest.mark.parametrize("base", PAGES)
def test_an_example_is_short(base: type[Spec]) -> None:
    assert len(example(base)[2].splitlines()) <= _MOST_LINES[base]


def suite_with(**parts: Any) -> Suite:
    """The smallest suite with these parts."""
    small = dict[str, Any](
        concepts=["star"], goals=1, seeds=1, keep_images=1, utility={"neighbours": 0, "others": 0},
        sampler={"steps": 2, "guidance_scale": 3.0},
    )  # fmt: skip
    return load_suite("mini-quick").with_(**small | parts)


def test_a_method_and_an_attack_go_through_a_suite(miniature: TextToImage, tmp_path: Path) -> None:
    method, attack = documented(Erasure), documented(Attack)
    suite = suite_with(
        methods=["none", "destroyed", {method: registry.get("method", method).quick}],
        attacks=["prompts", "random_tokens", "seed_search", {attack: registry.get("attack", attack).quick}],
    )  # fmt: skip
    only = ("my_ablation", "my_greedy")
    plan = make_plan(suite, miniature.backbone.digest, only=only)
    store = Store(tmp_path / "store")
    assert not run_plan(plan, store, miniature).failed
    rows = collect(plan, store).trials
    mine = rows[
        rows["method"].str.startswith("my_ablation") & rows["attack"].str.startswith("my_greedy")
    ]
    assert set(mine["status"]) == {"ok"}


def test_a_judge_and_both_metrics_go_through_a_suite(
    miniature: TextToImage, tmp_path: Path
) -> None:
    for base in (Judge, Metric, SetMetric):
        documented(base)
    said = re.search(r"^```yaml\n(.*?)^```$", page(Judge), re.MULTILINE | re.DOTALL)
    assert said, "the page shows how a suite names them"
    suite = suite_with(
        name="mine", methods=["none", "destroyed"], utility={"neighbours": 2, "others": 4},
        attacks=["prompts", {"random_tokens": {"tries": 1}}, {"seed_search": {"tries": 1}}],
        **yaml.safe_load(said[1]),
    )  # fmt: skip
    plan = make_plan(suite, miniature.backbone.digest)
    store = Store(tmp_path / "store")
    assert not run_plan(plan, store, miniature).failed
    folder = publish(plan, store, Asked("mine.yaml"), folder=tmp_path / "report").folder
    table = pd.read_csv(folder / "table.csv")
    mine = table[table["judge"] == "red"]
    assert set(table["judge"]) == {"mini_judge", "red"}
    assert mine["n"].sum() == table["n"].sum() / 2 > 0
    assert not mine["errors"].any()
    measures = pd.read_csv(folder / "measures.csv").set_index(["method", "concept", "metric"])
    value = measures["value"].xs("star", level="concept")
    assert value["none", "my_paleness"] == 0, "the unedited image against itself"
    assert value["none", "my_variety"] == pytest.approx(1)
    assert value["destroyed", "my_paleness"] != 0
    assert value["destroyed", "my_variety"] != pytest.approx(1)


def test_the_judge_sees_its_colour_and_refuses_other_concepts() -> None:
    judge = registry.build("judge", {documented(Judge): {"colours": {"star": [1.0, 0.0, 0.0]}}})
    assert isinstance(judge, Judge)
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0, :2] = 1  # the upper half of the first is red
    star = suite_with().concepts[0]
    assert judge.scores(images, star).tolist() == [[0.5], [0.0]]
    with pytest.raises(UsageError, match="unknown concept with a colour 'heart'"):
        judge.check_concept(star.model_copy(update={"text": "heart"}))


def test_the_metric_is_the_colourfulness_that_an_image_lost() -> None:
    metric = registry.build("metric", documented(Metric))
    assert isinstance(metric, Metric)
    vivid = torch.zeros(1, 3, 2, 2)
    vivid[:, 0, :, 0] = 1  # half red, half black: a is 1 or 0, b is 1 / 2 or 0
    grey = torch.full_like(vivid, 0.5)
    batch = UtilityBatch(
        prompts=["", ""], concepts=[None, None], images_B3HW=torch.cat([grey, vivid]),
        base_images_B3HW=torch.cat([vivid, vivid]),
    )  # fmt: skip
    known = (1 / 4 + 1 / 16) ** 0.5 + 0.3 * (1 / 4 + 1 / 16) ** 0.5
    assert metric.values(batch).tolist() == pytest.approx([known, 0])
