"""Models in memory are evaluated as methods are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import attack, erase, evaluate
from bench.api.evaluation import with_given
from bench.api.given import GivenModel
from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.interfaces import Concept, Rng
from bench.model.text_to_image import TextToImage
from methods.uce import UCE
from tests.adapter import adapted
from tests.tiny import SUITE


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


def test_live_objects_give_the_rows_of_the_method_that_made_them(
    model: TextToImage, suite: Path, tmp_path: Path
) -> None:
    method = UCE.preset("repo-2023")
    edited = erase(model, "star", method)
    pipeline = edited.to_diffusers()
    pipeline.save_pretrained(tmp_path / "erased")
    table = evaluate(
        suite, store=tmp_path / "store",
        methods=[method, ("model", edited), ("pipeline", pipeline),
                 {"checkpoint": {"path": str(tmp_path / "erased"), "as": "folder"}}],
    )  # fmt: skip
    rows = {
        str(name): of.drop(columns=["method", "seconds_edit"], errors="ignore").reset_index(
            drop=True
        )
        for name, of in table.groupby("method")
    }
    measured = [
        c for c in rows["model"].columns
        if not any(word in c for word in ("seconds", "bypass", "memory", "megabytes", "params", "work"))
    ]  # fmt: skip
    for name in ("model", "pipeline", "folder"):
        assert rows[name][measured].equals(rows[method.label][measured]), name


def test_a_model_of_another_base_or_without_an_edit_is_told(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    with pytest.raises(UsageError, match="got the unedited base"):
        GivenModel.of_model(model)
    same = GivenModel.of_pipeline(model.to_diffusers())
    with pytest.raises(UsageError, match="nothing was erased"):
        same(model, [concepts["star"]], rng=Rng(("t",)))
    pipeline = model.to_diffusers()
    pipeline.unet.conv_in = pipeline.unet.conv_out
    other = GivenModel.of_pipeline(pipeline)
    with pytest.raises(UsageError, match=r"conv_in.*expected the shape"):
        other(model, [concepts["star"]], rng=Rng(("t",)))


def test_hooks_of_a_model_come_along_and_those_of_a_pipeline_are_refused(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    edited = adapted(model)
    again = GivenModel.of_model(edited)(model, [concepts["star"]], rng=Rng(("t",)))
    assert again.digest == edited.digest
    with pytest.raises(UsageError, match="expected a pipeline without hooks"):
        GivenModel.of_pipeline(edited.to_diffusers())


def test_its_identity_is_its_content(model: TextToImage) -> None:
    one, two = model.to_diffusers(), model.to_diffusers()
    assert GivenModel.of_pipeline(one).digest == GivenModel.of_pipeline(two).digest
    two.unet.conv_in.bias.data += 0.5
    assert GivenModel.of_pipeline(one).digest != GivenModel.of_pipeline(two).digest
    half = model.to_diffusers()
    half.unet.half()
    half.text_encoder.half()
    edited = GivenModel.of_pipeline(half)
    with pytest.raises(UsageError, match="nothing was erased"):  # rounding is no edit
        edited(model, [Concept(text="star")], rng=Rng(("t",)))


def test_what_is_no_method_and_names_twice_are_told(suite: Path, model: TextToImage) -> None:
    loaded = load_suite(suite)
    with pytest.raises(UsageError, match="got a int"):
        with_given(loaded, [3])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="got 'mine' twice; give"):
        with_given(loaded, [("mine", UCE()), ("mine", UCE(erase_scale=2.0))])
    assert [m.label for m in with_given(loaded, ["esd", UCE()]).methods][2:] == ["esd", "uce"]


def test_erase_and_attack_take_a_pipeline_beside_its_base(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    edited = erase(model, "star", "uce")
    pipeline = edited.to_diffusers()
    plain = erase(model.to_diffusers(), concepts["star"], "uce", base=model)
    assert plain.digest == edited.digest, "a pipeline with the base's values is the base"
    both = erase(pipeline, "zorbo", "uce", base=model)
    assert both.digest == erase(edited, "zorbo", "uce").digest
    found = [attack(of, "star", "random_tokens", limit=1, base=model) for of in (edited, pipeline)]
    assert [c.prompt for c in found[0]] == [c.prompt for c in found[1]]
    assert [c.own_score for c in found[0]] == [c.own_score for c in found[1]]


def test_a_pipeline_without_its_base_and_other_things_are_told(model: TextToImage) -> None:
    with pytest.raises(UsageError, match="the base of the pipeline beside it, got none"):
        attack(model.to_diffusers(), "star", "random_tokens")
    with pytest.raises(UsageError, match="a model or a diffusers pipeline, got a str"):
        erase("miniature", "star", "uce")
