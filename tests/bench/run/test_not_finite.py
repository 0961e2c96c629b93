"""Whatever is not finite is an error with its reason: never a safe image, never a good score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor

from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.interfaces import (
    Concept,
    Context,
    Erasure,
    Judge,
    Metric,
    Slot,
    UtilityBatch,
    registry,
)
from bench.model.conditioning import Conditioning
from bench.model.encoder import TextEncoder
from bench.model.guidance import ClassifierFree, Guidance
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.run.collect import collect
from bench.run.plan import Plan, make_plan
from bench.run.results import Results
from bench.run.runner import Outcome, run_plan
from bench.run.store import Store
from bench.tables.tables import summarise
from bench.toolkit.inversion import invert, name_embedding, with_places

PROMPTS = ["a star", "a house", "a moon"]
SEEDS = [1, 2, 3]
FIELDS: dict[str, Any] = {
    "name": "tiny",
    "concepts": ["star"],
    "sampler": {"steps": 2, "guidance_scale": 3.0},
    "attacks": ["prompts", {"random_tokens": {"tries": 2}}, {"seed_search": {"tries": 2}}],
    "judges": ["mini_judge"],
    "surrogate": "clip_zero_shot",
    "metrics": ["accuracy", "drift"],
    "goals": 2,
    "utility": {"neighbours": 2, "others": 2},
    "keep_images": 2,
}


class Overflowing(Guidance):
    """Plain guidance whose prediction leaves the numbers, as half precision does."""

    name: ClassVar[str] = "overflowing"

    def contexts(self, model: TextEncoder, conditioning: Conditioning) -> tuple[Conditioning, ...]:
        return ClassifierFree().contexts(model, conditioning)

    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return eps_KBChw[-1] * math.inf, None


class Broken(Erasure):
    """An edit that gives no image at all."""

    name: ClassVar[str] = "broken"
    slots: ClassVar[frozenset[Slot]] = frozenset({"guidance"})

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        return model.with_guidance(Overflowing())


class Unsure(Judge):
    """A judge whose score of dark images is no number."""

    name: ClassVar[str] = "unsure"

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        bright = images_B3HW.mean((1, 2, 3))
        return torch.where(bright < bright.median(), math.nan, bright)[:, None]


class Infinite(Metric):
    """A metric that divides by zero for the first image."""

    name: ClassVar[str] = "infinite"

    def values(self, batch: UtilityBatch) -> Tensor:
        values = torch.ones(len(batch.prompts))
        values[0] = math.inf
        return values


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the classes above buildable in a suite, as if a file of the repository held them."""
    build = registry.build
    mine = {cls.name: cls for cls in (Broken, Unsure, Infinite)}

    def made(kind: registry.PlugPoint, entry: Any) -> Any:
        return mine[entry]() if isinstance(entry, str) and entry in mine else build(kind, entry)

    monkeypatch.setattr(registry, "build", made)


def run(base: TextToImage, root: Path, **changes: Any) -> tuple[Plan, Outcome, Results]:
    suite = load_suite("mini-quick").with_(**{**FIELDS, **changes})
    plan, store = make_plan(suite, base.backbone.digest), Store(root)
    return plan, run_plan(plan, store, base), collect(plan, store)


def with_vae(model: TextToImage, **changes: Any) -> TextToImage:
    """The model, with a decoder that ends in other values."""
    vae = deepcopy(model.backbone.vae)
    for name, value in changes.items():
        getattr(vae.decoder.conv_out, name).data.fill_(value)
    return replace(model, backbone=replace(model.backbone, vae=vae))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_decoder_that_overflows_gives_errors(
    model: TextToImage, tiny_sampler: Sampler, value: float
) -> None:
    out = with_vae(model, bias=value).sample(PROMPTS, SEEDS, tiny_sampler)
    assert out.status == ("error",) * 3
    assert not out.images_B3HW.any()
    with pytest.raises(FloatingPointError, match="expected finite images, but 3 of 3"):
        out.all_finite()


def test_a_row_that_is_not_finite_leaves_the_others_alone(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    states, start = model.encode(PROMPTS), model.noise(SEEDS, tiny_sampler)
    expected = model.sample(PROMPTS, SEEDS, tiny_sampler)
    assert expected.all_finite() is expected
    states.states_BLD[1, 3, 0] = math.nan
    start[2, 0, 0, 0] = math.inf
    out = model.sample(
        PROMPTS, SEEDS, tiny_sampler, conditioning=states, latents_BChw=start
    )  # fmt: skip
    assert out.status == ("ok", "error", "error")
    torch.testing.assert_close(out.images_B3HW[0], expected.images_B3HW[0], atol=1e-4, rtol=0)


def test_decoding_keeps_what_is_not_finite(model: TextToImage) -> None:
    image = with_vae(model, bias=math.inf).decode(torch.zeros(1, *model.latent_shape))
    assert image.isnan().all()  # clamped, it would be white


def test_an_edit_without_images_is_an_error_and_no_defence(
    miniature: TextToImage, tmp_path: Path, plugins: None
) -> None:
    methods = ["none", "destroyed", "broken"]
    _, outcome, found = run(miniature, tmp_path, methods=methods)
    assert not outcome.failed
    lost = found.trials[found.trials["method"] == "broken"]
    assert set(lost["status"]) == {"error"}
    assert set(lost["reason"]) == {"the latents or the image are not finite"}
    assert set(found.trials.loc[found.trials["method"] != "broken", "reason"]) == {""}
    assert len(found.errors) == 4  # three attacks and the utility prompts
    assert "rows: the latents or the image are not finite" in found.errors[0]
    table = summarise(found.trials, found.utility, edits=found.edits, suite="tiny")
    broken = table[table["method"] == "broken"]
    assert broken["asr"].isna().all()
    assert (broken["errors"] == broken["attempted"]).all()
    assert broken["retained_accuracy"].isna().all()


def test_a_score_that_is_not_finite_is_an_error_of_its_judge(
    miniature: TextToImage, tmp_path: Path, plugins: None
) -> None:
    judges = ["mini_judge", "unsure"]
    _, _, found = run(miniature, tmp_path, methods=["none", "destroyed"], judges=judges)
    rows = found.trials.groupby("judge")["status"].agg(set)
    assert rows["mini_judge"] == {"ok"}
    assert rows["unsure"] == {"ok", "error"}
    lost = found.trials[found.trials["status"] == "error"]
    assert lost["score"].isna().all()
    assert set(lost["reason"]) == {"the score of unsure is not finite"}
    summarise(found.trials, found.utility, edits=found.edits, suite="tiny")


def test_a_value_that_is_not_finite_is_an_error_of_its_metric(
    miniature: TextToImage, tmp_path: Path, plugins: None
) -> None:
    metrics = ["accuracy", "infinite"]
    _, _, found = run(miniature, tmp_path, methods=["none", "destroyed"], metrics=metrics)
    lost: pd.DataFrame = found.utility[found.utility["status"] == "error"]
    assert set(lost["metric"]) == {"infinite"}
    assert len(lost) == 2  # an image of each method
    assert lost["value"].isna().all()
    assert set(lost["reason"]) == {"the value of infinite is not finite"}


def test_a_base_without_images_is_refused_before_the_first_cell(
    miniature: TextToImage, tmp_path: Path
) -> None:
    base = with_vae(miniature, bias=math.nan)
    suite = load_suite("mini-quick").with_(**{**FIELDS, "methods": ["none", "destroyed"]})
    with pytest.raises(UsageError, match="its images are not finite in float32"):
        run_plan(make_plan(suite, base.backbone.digest), Store(tmp_path), base)
    assert not list(tmp_path.glob("*/*/*"))


def test_an_inversion_that_leaves_the_numbers_is_an_error(model: TextToImage) -> None:
    text, start = with_places(model, "a {}"), name_embedding(model, "star")
    broken = model.with_guidance(Overflowing())
    with pytest.raises(FloatingPointError, match="2 of 2 embeddings are not finite after 1 steps"):
        invert(
            broken, torch.zeros(1, *model.latent_shape), [text], start.repeat(2, 1, 1),
            [torch.Generator().manual_seed(k) for k in range(2)],
            steps=1, lr=0.1, draws=1, guidance_scale=3.0,
        )  # fmt: skip
