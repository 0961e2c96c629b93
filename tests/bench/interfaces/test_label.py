"""A spec's label: short enough for a table, and no two different specs of a suite share one."""

from __future__ import annotations

import re
from typing import Any, ClassVar, get_args

import pytest

from attacks.prompts import Prompts
from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.interfaces import registry
from bench.judges.clip_zero_shot import ClipZeroShot
from bench.metrics.fid import Fid
from methods.few_shot import FewShot
from methods.output_filter import OutputFilter
from methods.uce import UCE
from tvc.method import TaskVectorErasure


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        (FewShot.preset("mini"), "few_shot[mini]"),
        (FewShot.preset("mini", lr=0.5), "few_shot[mini](lr=0.5)"),
        (FewShot(), "few_shot"),  # whichever preset has the same values
        (FewShot.preset("mini").model_copy(update={"lr": 0.5}), "few_shot[mini](lr=0.5)"),
        (TaskVectorErasure.preset("mini", alpha=2.0), "task_vector[mini](alpha=2.0)"),
        (TaskVectorErasure(alpha=2.0), "task_vector(alpha=2.0)"),
    ],
)
def test_it_names_what_was_asked_for(spec: FewShot | TaskVectorErasure, label: str) -> None:
    assert spec.label == label


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("/home/alice/clip", "clip"),
        ("./weights/clip/", "clip"),
        ("~/unet", "unet"),
        ("../unet.safetensors", "unet.safetensors"),
        ("C:\\weights\\clip", "clip"),
        ("~alice/clip", "clip"),
        ("/home/alice smith/clip", "clip"),
        ("/home/alice smith/my clip/", "my clip"),
        ("C:\\Users\\alice smith\\clip", "clip"),
        ("\\\\server\\alice\\clip", "clip"),
        ("open_clip:ViT-B-32@/home/alice/w.safetensors", "open_clip:ViT-B-32@w.safetensors"),
        ("open_clip:ViT-B-32@~alice/my w.safetensors", "open_clip:ViT-B-32@my w.safetensors"),
        ("open_clip:ViT-B-32@w.safetensors", "open_clip:ViT-B-32@w.safetensors"),
        ("/home/alice@work/clip", "clip"),
        ("as in /home/alice/star.png, but red", "as in star.png, but red"),
        (("/home/alice/a", "b"), "('a', 'b')"),
        (("/home/alice smith/a", ("~alice/b", 0.5, None)), "('a', ('b', 0.5, None))"),
        ({"star": ("/home/alice smith/a",)}, "{'star': ('a',)}"),
        ("openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14"),
        ("something, as a {}", "something, as a {}"),
        ("a red / blue star", "a red / blue star"),
    ],
)
def test_of_a_path_it_tells_the_name(value: object, told: str) -> None:
    assert FewShot().told("anything", value) == told


NO_PATH = {("checkpoint", key) for key in ("hub", "commit", "subfolder", "sha256")}
"""A path is no value of these: the next test holds it."""

SPELLINGS = [
    "/home/alice/there", "/home/alice/there/", "/home/alice smith/there", "~alice/there", "~/alice/there",
    "./alice/there", "../alice/there", "C:\\alice smith\\there", "\\\\alice\\there",
    "open_clip:ViT-B-32@/home/alice smith/there",
]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("point", "name"), [(p, n) for p in get_args(registry.PlugPoint) for n in registry.names(p)]
)
def test_no_label_has_the_folders_of_a_path(
    point: registry.PlugPoint, name: str, spelling: str
) -> None:
    cls = registry.get(point, name)
    filled = cls().model_copy(update=dict.fromkeys(cls.needs, spelling))
    assert "alice" not in filled.label
    for key, field in cls.model_fields.items():
        if (name, key) in NO_PATH:
            continue
        if field.annotation in (str, str | None, tuple[str, ...]):
            value = (spelling,) if field.annotation == tuple[str, ...] else spelling
            assert "alice" not in filled.model_copy(update={key: value}).label, key


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("name", "key"), sorted(NO_PATH))
def test_a_path_is_refused_where_a_label_would_have_it_whole(
    name: str, key: str, spelling: str
) -> None:
    place = {} if key == "sha256" else {"hub": "owner/name", "commit": "a" * 40}
    with pytest.raises(UsageError):
        registry.build("method", {name: {**place, key: spelling}})


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        (ClipZeroShot(clip="alice/weights/clip"), "clip_zero_shot(clip=clip)"),
        (ClipZeroShot(clip="open_clip:ViT@/home/alice/a.st"), "clip_zero_shot(clip=open_clip:ViT@a.st)"),
        (ClipZeroShot(clip="open_clip:ViT@alice/a.st"), "clip_zero_shot(clip=open_clip:ViT@a.st)"),
        (ClipZeroShot(clip="/home/alice@work/clip"), "clip_zero_shot(clip=clip)"),
        (Prompts(file="alice/mine.csv"), "prompts(file=mine.csv)"),
        (OutputFilter(source="alice/checker/"), "output_filter(source=checker)"),
        (Fid(real="alice/photos"), "fid(real=photos)"),
        (Fid(real="~"), "fid(real=~)"),
        (TaskVectorErasure.model_validate({"with": "alice/u.st"}), "task_vector(with_unet=u.st)"),
        (Fid(real="alice/photos", resamples=9), "fid(real=photos, resamples=9)"),
    ],
)  # fmt: skip
def test_a_field_that_names_a_path_tells_its_name_however_it_is_written(
    spec: ClipZeroShot | Prompts | OutputFilter | Fid | TaskVectorErasure, label: str
) -> None:
    assert spec.label == label


def test_a_new_preset_renames_nothing() -> None:
    class Plain(UCE):
        name = "plain_test_method"
        presets: ClassVar[dict[str, dict[str, Any]]] = {}

    before = [spec.label for spec in (Plain(), Plain(lam=0.9))]
    Plain.presets["near"] = {"lam": 0.9}
    Plain.presets["same"] = {}
    assert [spec.label for spec in (Plain(), Plain(lam=0.9))] == before
    assert before == ["plain_test_method", "plain_test_method(lam=0.9)"]
    assert Plain.preset("near").label == "plain_test_method[near]"


def test_a_name_of_its_own_changes_no_digest() -> None:
    spec = registry.build("method", {"uce": {"preset": "repo-2023", "as": "my edit"}})
    plain = UCE.preset("repo-2023")
    assert (spec.label, plain.label) == ("my edit", "uce[repo-2023]")
    assert (spec, spec.digest) == (plain, plain.digest)
    assert hash(spec) == hash(plain)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"uce": {"as": "esd"}}, "'esd' is another plug-in; choose another name"),
        ({"uce": {"as": "none"}}, "tables know none and destroyed and prompts and all by these names"),
        ({"none": {"as": "base"}}, "tables know none"),
        ({"uce": {"as": "a|b"}}, "expected a name of letters, digits, spaces"),
        ({"uce": {"as": ""}}, "expected a name of letters, digits, spaces"),
        ({"uce": {"as": 3}}, "expected a name of letters, digits, spaces"),
        ({"uce": {"as": "x" * 61}}, "expected a name of letters, digits, spaces"),
    ],
)  # fmt: skip
def test_a_name_that_would_mislead_is_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        registry.build("method", entry)


def test_an_entry_is_there_once_whatever_it_is_called() -> None:
    twice = ["none", "destroyed", "uce", {"uce": {"as": "mine"}}]
    with pytest.raises(UsageError, match=re.escape("is 'mine', as methods[2] is")):
        load_suite("mini-quick").with_(methods=twice)
