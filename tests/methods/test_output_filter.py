from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from bench.config.suite import load_suite
from bench.core.digest import file_sha256
from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.core.shipped import clip_folder
from bench.interfaces import Concept, Rng
from bench.model.filters import Filter
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.run.plan import make_plan
from bench.toolkit.clip import load_clip
from methods.output_filter import ClipChecker, OutputFilter, SafetyChecker
from tests.tiny_bases import with_settings

RNG = Rng(("output_filter",))
HEART = Concept(text="heart", neighbours=("moon", "flower"))
QUICK: dict[str, Any] = {"images": 6, "steps": 2, "things": ("dog", "heart-shaped box", "cat")}


def pictures(n: int) -> Tensor:
    return torch.rand(n, 3, 64, 64, generator=generator_for("output_filter", n))


def checker(**fields: object) -> ClipChecker:
    plain = {"texts": ("heart",), "alternatives": (("moon", "flower"),), "thresholds": (0.0,)}
    return ClipChecker.model_validate({**plain, **fields})


# -- the CLIP checker ----------------------------------------------------------------------------


def test_the_odds_are_those_of_a_softmax_over_the_texts() -> None:
    images, clip = pictures(3), load_clip("")
    texts = clip.text_features(["heart", "moon", "flower"])
    p = torch.softmax(clip.logit_scale * clip.image_features(images) @ texts.T, dim=1)[:, 0]
    torch.testing.assert_close(
        checker().log_odds(images)[:, 0], (p / (1 - p)).log(), atol=1e-3, rtol=1e-3
    )


def test_an_image_is_blanked_above_its_threshold_for_any_of_the_texts() -> None:
    images = pictures(4)
    two = checker(
        texts=("heart", "moon"), alternatives=(("moon",), ("heart", "ring")), thresholds=(0.0, 0.0)
    )
    odds = two.log_odds(images)
    low, high = odds.min().item() - 1, odds.max().item() + 1
    for thresholds, blanked in (((high, high), False), ((high, low), True), ((low, high), True)):
        rule = two.model_copy(update={"thresholds": thresholds})
        assert rule.blanks(images).tolist() == [blanked] * 4
    exact = two.model_copy(update={"thresholds": (odds[1, 0].item(), high)})
    assert exact.blanks(images).tolist() == (odds[:, 0] > odds[1, 0]).tolist()


def test_an_images_odds_do_not_depend_on_its_neighbours() -> None:
    images = pictures(3)
    together = checker().log_odds(images)
    torch.testing.assert_close(together[2:], checker().log_odds(images[2:]), atol=1e-3, rtol=0)
    assert checker().blanks(images[:0]).shape == (0,)


def test_templates_are_averaged_and_an_alternative_that_is_the_text_is_left_out() -> None:
    images = pictures(2)
    plain = checker().log_odds(images)
    same = checker(alternatives=(("heart", "moon", "flower", "moon"),)).log_odds(images)
    torch.testing.assert_close(same, plain)
    twice = checker(templates=("{}", "{}")).log_odds(images)
    torch.testing.assert_close(twice, plain, atol=1e-3, rtol=0)
    assert not torch.allclose(checker(templates=("a red {}",)).log_odds(images), plain, atol=1e-3)


# -- calibrated on the miniature -----------------------------------------------------------------


def test_the_calibrated_threshold_is_the_highest_score_at_a_rate_of_nothing(
    model: TextToImage,
) -> None:
    told: list[str] = []
    spec = OutputFilter(false_positives=0.0, **QUICK)
    edited = spec(model, [HEART], rng=RNG, progress=lambda d, t, what: told.append(what))
    (rule,) = edited.filters
    assert isinstance(rule, ClipChecker)
    assert rule.texts == ("heart",)
    assert rule.alternatives == (("moon", "flower", "something", "dog", "cat"),)
    assert told
    half = spec.model_copy(update={"false_positives": 0.5})(model, [HEART], rng=RNG)
    assert isinstance(half.filters[0], ClipChecker)
    assert half.filters[0].thresholds < rule.thresholds
    assert Filter.from_identity(rule.identity()) == rule


def test_a_style_competes_with_styles_alone(model: TextToImage) -> None:
    style = Concept(text="sketch", family="style", neighbours=("halftone",))
    (rule,) = OutputFilter(threshold=0.0)(model, [style], rng=RNG).filters
    assert isinstance(rule, ClipChecker)
    assert rule.alternatives == (("halftone", "something"),)
    (rule,) = OutputFilter(threshold=0.0, alternatives=("a",))(model, [style], rng=RNG).filters
    assert isinstance(rule, ClipChecker)
    assert rule.alternatives == (("a",),)


def test_a_concept_without_neighbours_has_everyday_things(model: TextToImage) -> None:
    edited = OutputFilter(**QUICK)(model, [Concept(text="heart")], rng=RNG)
    assert isinstance(edited.filters[0], ClipChecker)
    assert edited.filters[0].alternatives == (("something", "dog", "cat"),)


def test_blanked_images_are_black_and_have_their_status(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    for threshold, status in ((-1e6, "blanked"), (1e6, "ok")):
        edited = OutputFilter(threshold=threshold)(model, [HEART], rng=RNG)
        assert edited.slots == {"filters"}
        out = edited.sample(["a heart", "a moon"], [1, 2], tiny_sampler)
        assert out.status == (status, status)
        assert bool(out.images_B3HW.any()) == (status == "ok")


def test_other_filters_do_not_take_part_in_the_calibration(model: TextToImage) -> None:
    blind = model.with_filters(checker(thresholds=(-1e6,)))
    edited, plain = (OutputFilter(**QUICK)(m, [HEART], rng=RNG) for m in (blind, model))
    assert len(edited.filters) == 2
    assert edited.filters[1] == plain.filters[0]


# -- Stable Diffusion's checker ------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small safety checker as diffusers saves it, and diffusers' own object."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    tower = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "hidden_act": "quick_gelu",
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        network: Any = StableDiffusionSafetyChecker(
            CLIPConfig(vision_config=tower, projection_dim=8)
        ).eval()
        for name in ("concept_embeds", "special_care_embeds"):
            table = getattr(network, name)
            table.data = torch.randn(table.shape, generator=generator_for(name))
            getattr(network, f"{name}_weights").data.fill_(0.4)
    folder = tmp_path_factory.mktemp("base") / "safety_checker"
    network.save_pretrained(folder)
    return folder, network


def test_it_flags_what_diffusers_flags(stored: tuple[Path, Any], model: TextToImage) -> None:
    from bench.toolkit.clip_towers import Preprocess
    from methods.output_filter import _MEAN, _STD

    folder, network = stored
    spec = OutputFilter(checker="safety_checker", source=str(folder))
    (rule,) = spec(model, [HEART], rng=RNG).filters
    images = pictures(6) * torch.linspace(0, 1, 6)[:, None, None, None]
    pixels = Preprocess(32, _MEAN, _STD)(images)
    for threshold in (-1.0, 0.2, 0.4, 1.1):
        network.concept_embeds_weights.data.fill_(threshold)
        expected = network(clip_input=pixels, images=list(images.clone()))[1]
        path = folder.parent / f"at{threshold}"
        network.save_pretrained(path)
        again = OutputFilter(checker="safety_checker", source=str(path))
        (rule,) = again(model, [HEART], rng=RNG).filters
        assert isinstance(rule, SafetyChecker)
        assert rule.blanks(images).tolist() == expected
        assert Filter.from_identity(rule.identity()) == rule
        assert rule.blanks(images[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("concept", "care", "flagged"),
    [
        (0.5, 2.0, True),
        (0.605, 2.0, False),
        (0.605, 0.7, True),  # its cosine with the special care is .8: lowered by .01
        (0.605, 0.9, False),
        (0.6004, 2.0, False),
        (0.5999, 2.0, False),  # .0001 above: nothing, to three places
    ],
)
def test_the_rule_of_the_safety_checker_by_hand(
    stored: tuple[Path, Any], tmp_path: Path, concept: float, care: float, flagged: bool
) -> None:
    from safetensors.torch import load_file, save_file

    from bench.toolkit.clip_towers import Preprocess
    from methods.output_filter import _MEAN, _STD

    folder, network = stored
    image = pictures(1)
    with torch.no_grad():
        pooled = network.vision_model(Preprocess(32, _MEAN, _STD)(image)).pooler_output
        along = torch.nn.functional.normalize(network.visual_projection(pooled), dim=-1)
    across = torch.eye(8)[:1] - along[:, :1] * along
    across = torch.nn.functional.normalize(across, dim=-1)
    tables = {
        "concept_embeds": 0.6 * along + 0.8 * across,
        "concept_embeds_weights": torch.tensor([concept]),
        "special_care_embeds": 0.8 * along - 0.6 * across,
        "special_care_embeds_weights": torch.tensor([care]),
    }
    shutil.copy(folder / "config.json", tmp_path)
    save_file(load_file(folder / "model.safetensors") | tables, tmp_path / "model.safetensors")
    sha256 = file_sha256(tmp_path / "model.safetensors")
    assert SafetyChecker(folder=str(tmp_path), sha256=sha256).blanks(image).tolist() == [flagged]


def test_what_lies_beside_the_two_files_is_not_read(
    stored: tuple[Path, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(stored[0], tmp_path / "safety_checker")
    for name in ("adapter_config.json", "model.safetensors.index.json", "pytorch_model.bin"):
        (folder / name).write_text("{")
    sha256 = file_sha256(folder / "model.safetensors")
    images = pictures(4)
    one, two = (SafetyChecker(folder=str(f), sha256=sha256) for f in (stored[0], folder))
    assert torch.equal(one.blanks(images), two.blanks(images))


def test_it_says_nothing_of_what_it_blanks(
    stored: tuple[Path, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copy(stored[0] / "config.json", tmp_path)
    tensors = load_file(stored[0] / "model.safetensors")
    tensors["concept_embeds_weights"].fill_(-2.0)
    save_file(tensors, tmp_path / "model.safetensors")
    sha256 = file_sha256(tmp_path / "model.safetensors")
    assert SafetyChecker(folder=str(tmp_path), sha256=sha256).blanks(pictures(2)).all()
    assert not caplog.records


def test_weights_without_a_part_are_refused(stored: tuple[Path, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copy(stored[0] / "config.json", tmp_path)
    tensors = load_file(stored[0] / "model.safetensors")
    for part, told in (("concept_embeds", "weights without"), ("pre_layrnorm", "the image tower")):
        left = {name: value for name, value in tensors.items() if part not in name}
        save_file(left, tmp_path / "model.safetensors")
        sha256 = file_sha256(tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=told):
            SafetyChecker(folder=str(tmp_path), sha256=sha256).blanks(pictures(1))


def test_files_of_older_transformers_nest_the_tower_twice(
    stored: tuple[Path, Any], model: TextToImage, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder, _ = stored
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    nested = {
        f"vision_model.{n}" if n.startswith("vision_model.") else n: value
        for n, value in load_file(folder / "model.safetensors").items()
    }
    save_file(nested, tmp_path / "model.safetensors")
    one, two = (
        OutputFilter(checker="safety_checker", source=str(path))(model, [HEART], rng=RNG)
        for path in (folder, tmp_path)
    )
    images = pictures(4)
    blanked = [
        m.filters[0].blanks(images) for m in (one, two) if isinstance(m.filters[0], SafetyChecker)
    ]
    assert torch.equal(blanked[0], blanked[1])


def test_the_safety_checkers_content_is_in_the_digest_of_the_edit(
    stored: tuple[Path, Any], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    def changed(folder: Path, name: str) -> Path:
        copy = shutil.copytree(stored[0], folder / "safety_checker")
        if name == "config.json":
            (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        else:
            tensors = load_file(copy / name)
            save_file(tensors | {"concept_embeds": -tensors["concept_embeds"]}, copy / name)
        return copy

    folders = [
        stored[0],
        shutil.copytree(stored[0], tmp_path / "same" / "safety_checker"),
        changed(tmp_path / "weights", "model.safetensors"),
        changed(tmp_path / "settings", "config.json"),
    ]
    given = [OutputFilter(checker="safety_checker", source=str(f)).identity() for f in folders]
    assert given[0]["files"] == given[1]["files"]
    assert len({tuple(identity["files"]) for identity in given}) == 3
    # Where the base's own is taken, it is the plan that knows which that is.
    with_it = load_suite("mini-quick").with_(
        methods=["none", "destroyed", {"output_filter": {"checker": "safety_checker"}}],
        surrogate={"clip_zero_shot": {"clip": str(clip_folder())}},  # a base must bring its own
        metrics=["accuracy"],
    )
    for folder in folders:
        with_settings(folder.parent)
    plans = [
        [c.digest for c in make_plan(with_it, "0" * 64, folder=f.parent).cells if c.kind == "edit"]
        for f in folders
    ]
    assert plans[0] == plans[1]
    for other in plans[2:]:
        same = [one == two for one, two in zip(plans[0], other, strict=True)]
        assert same == [i < len(same) * 2 // 3 for i in range(len(same))]


def test_another_base_than_the_miniature_needs_a_clip_or_a_checker_of_its_own(
    model: TextToImage, stored: tuple[Path, Any]
) -> None:
    other = replace(model, backbone=replace(model.backbone, folder=stored[0].parent))
    with pytest.raises(UsageError, match=r"output_filter\.source: expected the source of a CLIP"):
        OutputFilter(threshold=0.0)(other, [HEART], rng=RNG)
    given = OutputFilter(threshold=0.0, source=str(clip_folder()))
    assert given(other, [HEART], rng=RNG).slots == {"filters"}
    own = OutputFilter(checker="safety_checker")(other, [HEART], rng=RNG)
    assert own.slots == {"filters"}


def test_other_weights_than_the_edits_are_refused(
    stored: tuple[Path, Any], model: TextToImage, tmp_path: Path
) -> None:
    folder, _ = stored
    rule = SafetyChecker(folder=str(folder), sha256="0" * 64)
    with pytest.raises(ValueError, match="expected the weights that the edit was made with"):
        rule.blanks(pictures(1))


@pytest.mark.parametrize("there", [None, "config.json", "model.safetensors"])
def test_a_safety_checker_that_is_not_there_is_refused_by_the_plan(
    stored: tuple[Path, Any], model: TextToImage, tmp_path: Path, there: str | None
) -> None:
    checker = tmp_path / "base" / "safety_checker"
    checker.mkdir(parents=True)
    if there:  # half of one is none
        shutil.copy(stored[0] / there, checker)
    other = replace(model, backbone=replace(model.backbone, folder=checker.parent))
    told = (
        r"output_filter\.source: .*expected config\.json and model\.safetensors .* give its folder"
    )
    for spec, base in (
        (OutputFilter(checker="safety_checker"), other),
        (OutputFilter(checker="safety_checker", source=str(checker)), model),
    ):
        with pytest.raises(UsageError, match=told):
            spec(base, [HEART], rng=RNG)
    suite = load_suite("mini-quick").with_(
        methods=["none", "destroyed", {"output_filter": {"checker": "safety_checker"}}],
        surrogate={"clip_zero_shot": {"clip": str(clip_folder())}},
        metrics=["accuracy"],
    )
    with pytest.raises(UsageError, match=told):
        make_plan(suite, "0" * 64, folder=checker.parent)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"checker": "x"}, {"false_positives": 1.0}, {"images": 0}, {"steps": 0}, {"things": ()},
        {"templates": ()}, {"templates": ("no place",)}, {"guidance_scale": -1.0},
    ],
)  # fmt: skip
def test_fields_are_checked(fields: Mapping[str, object]) -> None:
    with pytest.raises(ValidationError):
        OutputFilter.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"thresholds": (0.0, 1.0)}, "a threshold for each text, got 1 and 2 for 1"),
        ({"alternatives": ()}, "for each text, got 0 and 1 for 1"),
        ({"alternatives": (("heart",),)}, "alternatives to 'heart', got only itself or none"),
    ],
)
def test_a_checker_has_alternatives_and_a_threshold_for_each_text(
    fields: Mapping[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        checker(**fields)


def test_no_concepts_and_unknown_sources_are_errors(model: TextToImage, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one concept"):
        OutputFilter()(model, [], rng=RNG)
    with pytest.raises(UsageError, match="local folder of a transformers CLIPModel"):
        OutputFilter(source=str(tmp_path), **QUICK)(model, [HEART], rng=RNG)
