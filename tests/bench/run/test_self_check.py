"""A base that is broken is found before the first cell."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.model.backbone import load_backbone
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.run.plan import make_plan
from bench.run.runner import run_plan
from bench.run.self_check import self_check
from bench.run.store import Store
from tests.fuzz.bases import linked_base


class Unable(torch.nn.Linear):
    """A network that raises what libraries raise."""

    config: Any = SimpleNamespace(in_channels=4, sample_size=16)

    def __init__(self) -> None:
        super().__init__(1, 1)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no such layer\nin any file")


def with_decoder(model: TextToImage, value: float) -> TextToImage:
    """The model with the last layer of its decoder filled with a number."""
    vae: Any = deepcopy(model.backbone.vae)
    with torch.no_grad():
        vae.decoder.conv_out.weight.fill_(value)
        vae.decoder.conv_out.bias.fill_(value)
    return replace(model, backbone=replace(model.backbone, vae=vae))


def test_a_sound_base_passes_and_no_stream_is_touched(
    model: TextToImage, tiny_sampler: Sampler, global_rng_untouched: None
) -> None:
    seen = self_check(model, tiny_sampler)
    assert seen.text_spread > 0.01
    assert seen.image_spread > 0.1
    assert set(seen.as_json()) == {"text_spread", "image_spread"}
    assert self_check(model, tiny_sampler) == seen


def test_a_tokenizer_that_knows_no_word_is_found(tmp_path: Path, tiny_sampler: Sampler) -> None:
    folder = linked_base(tmp_path / "base")
    path = folder / "tokenizer/tokenizer.json"
    data = json.loads(path.read_text())
    special = {one["content"] for one in data["added_tokens"]}
    data["model"]["vocab"] = {k: v for k, v in data["model"]["vocab"].items() if k in special}
    data["model"]["merges"] = []
    path.write_text(json.dumps(data))
    broken = TextToImage(load_backbone(str(folder)))
    with pytest.raises(UsageError, match="different prompts all encode alike"):
        self_check(broken, tiny_sampler)


@pytest.mark.parametrize(
    ("value", "reason"), [(0.0, "of one colour"), (float("nan"), "not finite")]
)
def test_images_of_nothing_are_found(
    value: float, reason: str, model: TextToImage, tiny_sampler: Sampler
) -> None:
    with pytest.raises(UsageError, match=reason):
        self_check(with_decoder(model, value), tiny_sampler)


def test_what_cannot_make_an_image_is_told_in_one_line(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    broken = replace(model, backbone=replace(model.backbone, unet=Unable()))
    with pytest.raises(UsageError, match="cannot make an image: no such layer") as error:
        self_check(broken, tiny_sampler)
    assert isinstance(error.value.__cause__, RuntimeError)


def test_a_run_on_a_broken_base_computes_nothing(model: TextToImage, tmp_path: Path) -> None:
    suite = load_suite("mini-quick").with_(
        methods=["none", "destroyed"], concepts=["star"], goals=1, seeds=1, sampler={"steps": 2},
        metrics=["accuracy"], utility={"neighbours": 1, "others": 0},
    )  # fmt: skip
    plan = make_plan(suite, model.backbone.digest, only=("none", "prompts"))
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="of one colour"):
        run_plan(plan, store, with_decoder(model, 0.0))
    assert store.count() == 0
    first = run_plan(plan, store, model)
    assert (first.computed, first.failed) == (len(plan.cells), [])
    assert first.self_check is not None
    assert first.as_json()["self_check"] == first.self_check.as_json()
    assert run_plan(plan, store, with_decoder(model, 0.0)).self_check is None  # nothing to compute
