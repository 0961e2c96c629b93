"""The pages for authors: their examples are short, and evaluated as any other plug-in from a suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.config.suite import load_suite
from bench.interfaces import registry
from bench.model.text_to_image import TextToImage
from bench.run.collect import collect
from bench.run.plan import make_plan
from bench.run.runner import run_plan
from bench.run.store import Store
from tests.contract.examples import PAGES, documented, example

_MOST_LINES = 100


@pytest.mark.parametrize("kind", PAGES)
def test_an_example_is_short(kind: registry.PlugPoint) -> None:
    assert len(example(kind).splitlines()) <= _MOST_LINES


def test_both_go_through_a_suite(miniature: TextToImage, tmp_path: Path) -> None:
    method, attack = documented("method"), documented("attack")
    quick = {kind: registry.get(kind, documented(kind)).quick for kind in PAGES}
    suite = load_suite("mini-quick").with_(
        concepts=["star"], goals=1, seeds=1, keep_images=1, utility={"neighbours": 0, "others": 0},
        sampler={"steps": 2, "guidance_scale": 3.0},
        methods=["none", "destroyed", {method: quick["method"]}],
        attacks=["prompts", "random_tokens", "seed_search", {attack: quick["attack"]}],
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
