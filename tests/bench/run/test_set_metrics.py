"""Metrics of sets in a run: on the miniature, with the features of its judge, sampled once and stored once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.model.text_to_image import TextToImage
from bench.report.write import write_report
from bench.run.collect import collect
from bench.run.payload import PAYLOAD
from bench.run.plan import Plan, make_plan
from bench.run.results import Results
from bench.run.runner import run_plan
from bench.run.stages.vectors import FEATURES
from bench.run.store import Store

SETS = ["fid", "kid", "cmmd", "precision_recall"]
FIELDS: dict[str, Any] = {
    "name": "tiny",
    "concepts": ["zorbo"],
    "sampler": {"steps": 2, "guidance_scale": 3.0},
    "methods": ["none", "destroyed"],
    "attacks": ["prompts", {"random_tokens": {"tries": 1}}, {"seed_search": {"tries": 1}}],
    "goals": 2,
    "utility": {"neighbours": 4, "others": 12},
    "keep_images": 2,
    "metrics": ["accuracy", "clip_score", *SETS],
}


def plan_of(base: TextToImage, **changes: Any) -> Plan:
    suite = load_suite("mini-quick").with_(**FIELDS | changes)
    return make_plan(suite, base.backbone.digest)


@pytest.fixture(scope="module")
def finished(miniature: TextToImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run without metrics of sets; copy it before you change it."""
    root = tmp_path_factory.mktemp("finished")
    plain = plan_of(miniature, metrics=["accuracy", "clip_score"])
    assert not run_plan(plain, Store(root), miniature).failed
    return root


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Store:
    shutil.copytree(finished, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Noise, as somebody's real images."""
    place = tmp_path_factory.mktemp("real") / "noise"
    place.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            place / f"{number}.png"
        )
    return str(place)


def values(found: Results) -> dict[tuple[str, str, str], pd.Series]:
    rows = found.distances
    return {(r["method"], r["column"], r["against"]): r for _, r in rows.iterrows()}


def test_sets_of_a_run_are_compared_and_nothing_is_sampled(
    miniature: TextToImage,
    store: Store,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(*given: Any, **named: Any) -> Any:
        raise AssertionError("nothing may be sampled")

    monkeypatch.setattr(TextToImage, "sample", none)
    real = {"fid": {"real": folder}}
    plan = plan_of(miniature, metrics=[*FIELDS["metrics"], real])
    outcome = run_plan(plan, store, miniature)
    assert (outcome.failed, outcome.computed) == ([], 2 * (len(SETS) + 1))
    found = collect(plan, store)
    assert (found.missing, found.failed, found.errors) == ([], [], [])
    told = values(found)
    assert len(found.distances) == 2 * (len(SETS) + 1 + 1)  # precision and recall are two values

    for column in ("fid", "kid", "cmmd"):  # a set against itself
        own = told["none", column, "base"]
        assert own["value"] == pytest.approx(0, abs=1e-6)
        assert own["low"] == pytest.approx(0, abs=1e-6) and own["high"] == pytest.approx(
            0, abs=1e-6
        )
        far = told["destroyed", column, "base"]
        assert far["low"] <= far["value"] <= far["high"]
        assert far["low"] > 0
        assert not far["higher_is_better"]
    assert told["none", "precision", "base"]["value"] == 1
    assert told["none", "recall", "base"]["value"] == 1
    noise = told["none", "fid", "noise"]
    assert noise["value"] > 1, "images of noise are far from everything"
    assert (noise["images"], noise["references"]) == (16, 8)

    # One entry of features per network and set, whatever compares by them. Two edits and a reference are
    # in the judge's and in CLIP's, the folder in the judge's.
    assert len(list(store.entries(FEATURES))) == 3 * 2 + 1

    written = tmp_path / "report"
    write_report(
        written, "tiny", trials=found.trials, utility=found.utility, edits=found.edits,
        distances=found.distances, pictures={}, scores={}, provenance={"command": "x", "commit": "c"},
    )  # fmt: skip
    lines = pd.read_csv(written / "measures.csv", keep_default_na=False)
    pooled = lines[(lines["concept"] == "all") & (lines["method"] == "destroyed")]
    assert {"accuracy", "clip_score", "clip_score x100", "fid", "kid", "cmmd", "precision"} <= {
        *pooled["metric"]
    }
    page = (written / "README.md").read_text()
    assert "## Utility by every metric" in page and "fid against base" in page
    assert "fid against base" in (written / "index.html").read_text()
    assert len(pd.read_parquet(written / "distances.parquet")) == len(found.distances)


def test_features_outlive_the_images(miniature: TextToImage, store: Store) -> None:
    run_plan(plan_of(miniature, metrics=["accuracy", "clip_score", "fid"]), store, miniature)
    for entry in list(store.entries(PAYLOAD)):
        store.remove(PAYLOAD, entry.digest)
    outcome = run_plan(
        plan_of(miniature, metrics=["accuracy", "clip_score", "kid"]), store, miniature
    )
    assert (outcome.failed, outcome.computed) == ([], 2)
    assert list(store.entries(PAYLOAD)) == []


def test_a_plan_without_them_is_what_it_was(miniature: TextToImage, folder: str) -> None:
    before = [c.digest for c in plan_of(miniature, metrics=["accuracy", "clip_score"]).cells]
    after = [c.digest for c in plan_of(miniature).cells]
    assert set(before) < set(after)
    assert len(after) - len(before) == 2 * len(SETS)
    other = {
        c.digest for c in plan_of(miniature, metrics=["accuracy", {"fid": {"real": folder}}]).cells
    }
    assert not (other - {*before}) <= {*after}, "other images, other numbers"


@pytest.mark.parametrize("name", SETS)
def test_the_default_is_refused_on_another_base(name: str, tmp_path: Path) -> None:
    from bench.interfaces import registry

    metric = registry.build("metric", name)
    with pytest.raises(UsageError, match=f"^{name}.*: expected") as caught:
        metric.check_base(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    from bench.core.shipped import model_folder
    from bench.interfaces import registry

    metric = registry.build("metric", {"fid": {"real": str(tmp_path)}})
    assert metric.label == f"fid(real={tmp_path.name})"
    with pytest.raises(UsageError, match=r"^fid\.real: expected images in .*, got none"):
        metric.check_base(model_folder())
