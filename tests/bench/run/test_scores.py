"""Sampling apart from scoring: another judge, metric or threshold samples nothing; images may be dropped."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

from bench.config.suite import load_suite
from bench.model.text_to_image import TextToImage
from bench.run.collect import collect
from bench.run.payload import PAYLOAD, read_images
from bench.run.plan import Plan, make_plan
from bench.run.runner import run_plan
from bench.run.store import Store
from bench.tables.tables import ALL, summarise

ZORBO = load_suite("mini-quick").known_concepts["zorbo"]
FIELDS: dict[str, Any] = {
    "name": "tiny",
    # A character with a face: something that a detector of faces may be asked for.
    "concepts": [{**ZORBO.model_dump(mode="json"), "family": "person", "head": "character"}],
    "sampler": {"steps": 2, "guidance_scale": 3.0},
    "methods": ["none", "destroyed"],
    "attacks": ["prompts", {"random_tokens": {"tries": 1}}, {"seed_search": {"tries": 1}}],
    "goals": 2,
    "utility": {"neighbours": 1, "others": 2},
    "keep_images": 2,
}
FACES = {"nudenet": {"label_set": "faces"}}


def plan_of(base: TextToImage, **changes: Any) -> Plan:
    suite = load_suite("mini-quick").with_(**FIELDS | changes)
    return make_plan(suite, base.backbone.digest)


def table_of(plan: Plan, store: Store) -> Any:
    found = collect(plan, store)
    assert (found.missing, found.failed, found.blocked) == ([], [], [])
    return summarise(found.trials, found.utility, edits=found.edits, suite="tiny")


@pytest.fixture(scope="module")
def finished(miniature: TextToImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a finished run; copy it before you change it."""
    root = tmp_path_factory.mktemp("finished")
    assert not run_plan(plan_of(miniature), Store(root), miniature).failed
    return root


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Store:
    shutil.copytree(finished, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the sampler was asked for."""
    asked: list[int] = []
    sample = TextToImage.sample

    def counted(self: TextToImage, prompts: Any, *more: Any, **named: Any) -> Any:
        asked.append(len(prompts))
        return sample(self, prompts, *more, **named)

    monkeypatch.setattr(TextToImage, "sample", counted)
    return asked


def test_another_judge_after_a_run_samples_nothing(
    miniature: TextToImage, store: Store, samples: list[int]
) -> None:
    before = table_of(plan_of(miniature), store)
    plan = plan_of(miniature, judges=["mini_judge", FACES])
    outcome = run_plan(plan, store, miniature)
    assert samples == []
    assert outcome.computed == 2 * 3  # a score per trial
    assert outcome.self_check is None, "the base is not even looked at"
    after = table_of(plan, store)
    assert set(after["judge"]) == {"mini_judge", "nudenet"}
    assert_frame_equal(after[after["judge"] == "mini_judge"], before)
    rows = collect(plan, store).trials
    assert rows[rows["judge"] == "nudenet"]["label"].nunique() == 18


def test_another_metric_and_judge_of_record_sample_nothing(
    miniature: TextToImage, store: Store, samples: list[int]
) -> None:
    metrics = ["accuracy", "clip_score", "drift", {"drift": {"space": "pixel"}}]
    outcome = run_plan(plan_of(miniature, metrics=metrics), store, miniature)
    assert (outcome.computed, samples) == (2, [])
    swapped = plan_of(miniature, judges=["clip_zero_shot"], surrogate="mini_judge")
    looks = {c.digest for c in swapped.cells if c.kind == "score"}
    known = {c.digest for c in plan_of(miniature).cells}
    assert len(looks - known) == 2 * 3 + 2  # trials, and accuracy alone of the metrics


@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_another_threshold_computes_nothing(
    miniature: TextToImage, store: Store, threshold: float
) -> None:
    plan = plan_of(miniature, judges=[{"mini_judge": {"threshold": threshold}}])
    assert run_plan(plan, store, miniature).computed == 0
    table = table_of(plan, store)
    expected = float(threshold == 0)
    assert set(table["asr"]) == {expected}
    assert set(table["retained_accuracy"]) == {expected}
    rows = collect(plan, store).trials
    assert rows["score"].to_list() == collect(plan_of(miniature), store).trials["score"].to_list()


def test_other_labels_of_a_judge_compute_nothing(miniature: TextToImage, store: Store) -> None:
    concepts = [{**FIELDS["concepts"][0], "family": "nudity person"}]
    nine, six = (
        plan_of(
            miniature,
            concepts=concepts,
            judges=["mini_judge", {"nudenet": {"label_set": name}}],
        )
        for name in ("nudity_9", "nudity_6")
    )
    run_plan(nine, store, miniature)
    assert run_plan(six, store, miniature).computed == 0
    counting = collect(six, store).trials.query("judge == 'nudenet' and counts")["label"]
    assert counting.nunique() == 6


def test_images_are_kept_losslessly(miniature: TextToImage, store: Store) -> None:
    for cell in plan_of(miniature).cells:
        if cell.kind not in ("reference", "trial", "utility"):
            continue
        payload, entry = store.find(PAYLOAD, cell.digest), store.find(cell.kind, cell.digest)
        assert payload is not None and entry is not None
        images = read_images(payload)
        sums = pq.read_table(entry.file("rows.parquet"))["image_sha256"].to_pylist()
        assert sums == [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
        assert images.shape[1:] == (64, 64, 3)
        assert np.ptp(images) > 0


def test_thumbnails_alone_stay_once_everybody_has_looked(
    miniature: TextToImage, finished: Path, tmp_path: Path
) -> None:
    plan, store = plan_of(miniature, images="thumbnails"), Store(tmp_path)
    assert [c.digest for c in plan.cells] == [c.digest for c in plan_of(miniature).cells]
    run_plan(plan, store, miniature)
    assert list(store.entries(PAYLOAD)) == []
    columns = ["edit_seconds", "edit_memory_mb"]
    assert_frame_equal(
        table_of(plan, store).drop(columns=columns),
        table_of(plan, Store(finished)).drop(columns=columns),
    )
    shown = collect(plan, store).pictures["zorbo"]
    assert all(len(pictures) for pictures in shown.values())
    kept = Store(finished)
    assert len(list(kept.entries(PAYLOAD))) == 1 + 2 * (1 + 3)


def test_a_suite_that_drops_images_drops_those_of_an_earlier_run(
    miniature: TextToImage, store: Store, samples: list[int]
) -> None:
    outcome = run_plan(plan_of(miniature, images="thumbnails"), store, miniature)
    assert (outcome.computed, samples) == (0, [])
    assert list(store.entries(PAYLOAD)) == []


def test_images_that_were_dropped_are_sampled_again_for_a_new_judge(
    miniature: TextToImage, store: Store, samples: list[int]
) -> None:
    run_plan(plan_of(miniature, images="thumbnails"), store, miniature)
    plan = plan_of(miniature, judges=["mini_judge", FACES])
    outcome = run_plan(plan, store, miniature)
    assert (outcome.computed, outcome.failed) == (6, [])
    assert sum(samples) == 2 * (6 + 2 + 2)  # two methods; goals of three sets, and of two attacks
    assert len(list(store.entries(PAYLOAD))) == 6


def test_scores_of_other_images_than_before_are_refused(
    miniature: TextToImage, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_plan(plan_of(miniature, images="thumbnails"), store, miniature)
    monkeypatch.setattr("bench.run.stages.trial.as_bytes", lambda images: _other(images))
    outcome = run_plan(plan_of(miniature, judges=["mini_judge", FACES]), store, miniature)
    assert len(outcome.failed) == 6
    assert "6 of 6 that are drawn here differ from those that were scored" in outcome.failed[0][1]
    assert list(store.entries(PAYLOAD)) == []


def test_a_damaged_payload_is_made_again_when_it_is_asked_for(
    miniature: TextToImage, store: Store, samples: list[int]
) -> None:
    plan = plan_of(miniature)
    (cell, *_) = (c for c in plan.cells if c.kind == "trial")
    entry = store.find(PAYLOAD, cell.digest)
    assert entry is not None
    (entry.path / "images.zip").chmod(0o644)
    (entry.path / "images.zip").write_bytes(b"PK")
    assert run_plan(plan, store, miniature).computed == 0
    more = plan_of(miniature, judges=["mini_judge", FACES])
    outcome = run_plan(more, store, miniature)
    assert (outcome.computed, outcome.failed) == (6, [])
    assert samples == [6]
    assert len(outcome.set_aside) == 1
    assert set(table_of(more, store)["concept"]) == {"zorbo", ALL}


def _other(images: Any) -> Any:
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    return pixels ^ 1
