from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from bench.core.meter import Meter
from bench.core.spec import Spec
from bench.interfaces import Concept, Erasure, Rng, registry
from bench.model.batching import MicroBatch
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from tests.contract.examples import specs

# Values tried for a field, to find another valid one than the default.
_PAIRS = {"object": (("a {}", "a thing"),)}
BESIDE: dict[str, tuple[dict[str, Any], ...]] = {
    "task_vector.pairs": ({"scenes": _PAIRS}, {"scenes": {}}),
    "task_vector.scenes": ({"pairs": "scenes"}, {"pairs": "none"}),
    "task_vector.with_unet": ({"pairs": "none", "scenes": {}},),
    "task_vector.without_unet": ({"pairs": "none", "scenes": {}, "with_unet": "one.safetensors"},),
}
"""Fields that say one thing together: what has to stand beside another value."""

OTHERS: tuple[Any, ...] = (
    _PAIRS,
    0.75,
    0.25,
    2,
    3,
    5,
    0,
    "x",
    "another",
    False,
    True,
    ("x",),
    ("{caption}, unlike {target}",),
    ("{} x",),
    {"style": ("{} x",)},
    "{} x",
    (0.25, 0.75),
)


DRAWN = ("task_vector",)
"""Methods that refuse a base that does not draw the concept: theirs is the miniature."""

SPECS = list(specs("method"))
each = pytest.mark.parametrize("spec", SPECS)


def runtime_fields(cls: type[Spec]) -> set[str]:
    extras = {f: info.json_schema_extra for f, info in cls.model_fields.items()}
    return {f for f, extra in extras.items() if isinstance(extra, dict) and extra.get("runtime")}


def altered(spec: Spec, field: str) -> Spec:
    fields = spec.model_dump()
    values = (*get_args(type(spec).model_fields[field].annotation), *OTHERS)
    for value, beside in product(values, ({}, *BESIDE.get(f"{spec.name}.{field}", ()))):
        try:
            other = type(spec).model_validate({**fields, field: value, **beside})
        except (ValidationError, TypeError):
            continue
        if getattr(other, field) != fields[field]:
            return other
    pytest.fail(f"no other valid value is known for {spec.name}.{field}; add one to OTHERS")


@pytest.fixture(scope="module")
def base_for(base: TextToImage, miniature: TextToImage) -> Callable[[Erasure], TextToImage]:
    """A function that tells the base that suits a spec."""
    return lambda spec: miniature if spec.name in DRAWN else base


@pytest.fixture
def model(
    base_for: Callable[[Erasure], TextToImage], request: pytest.FixtureRequest
) -> TextToImage:
    """The base that suits the test's spec, with a micro-batch of the test's own."""
    return replace(base_for(request.node.callspec.params["spec"]), micro=MicroBatch(64))


@pytest.fixture(scope="module")
def erased(base_for: Callable[[Erasure], TextToImage], concepts: Mapping[str, Concept]) -> Erased:
    """Erases ``star`` with a spec, once per module."""
    done: dict[str, TextToImage] = {}

    def erase(spec: Erasure) -> TextToImage:
        if spec.digest not in done:
            done[spec.digest] = spec(base_for(spec), [concepts["star"]], rng=Rng(("c",)))
        return done[spec.digest]

    return erase


Erased = Callable[[Erasure], TextToImage]


def test_the_controls_and_a_method_with_presets_are_registered() -> None:
    assert {"none", "destroyed", "negative_prompt", "uce"} <= set(registry.names("method"))
    assert any("repo-2023" in str(param.id) for param in SPECS)


@each
def test_the_same_rng_gives_the_same_edit_and_leaves_the_base_and_the_global_rng_alone(
    spec: Erasure,
    model: TextToImage,
    concepts: Mapping[str, Concept],
    erased: Erased,
    fingerprint: Callable[[TextToImage], str],
    global_rng_untouched: None,
) -> None:
    before, digest, first = fingerprint(model), model.digest, erased(spec)
    cost = Meter()
    again = spec(model.with_meter(cost), [concepts["star"]], rng=Rng(("c",)))
    assert again.digest == first.digest
    assert cost.images <= 128, "let `quick` take fewer images"
    assert cost.gradient_steps <= 8, "let `quick` take fewer steps"
    assert fingerprint(model) == before
    assert model.digest == digest
    assert not model.slots
    assert not any(p.requires_grad for p in model.backbone.parameters.values())


@each
def test_it_fills_the_slots_and_changes_the_parameters_it_declares(
    spec: Erasure, model: TextToImage, erased: Erased
) -> None:
    edited = erased(spec)
    assert edited.slots <= type(spec).slots
    assert edited.backbone is model.backbone
    assert set(edited.weights) <= set(spec.parameters(model))
    for name, value in edited.weights.items():
        was = model.parameter(name)
        assert (value.shape, value.dtype, value.device) == (was.shape, was.dtype, was.device)
        assert torch.isfinite(value).all(), name
        assert not value.requires_grad, name


@each
def test_all_but_the_empty_control_change_something(
    spec: Erasure, model: TextToImage, erased: Erased
) -> None:
    edited = erased(spec)
    if not type(spec).slots:
        assert edited.digest == model.digest
        return
    assert edited.digest != model.digest
    assert edited.slots == type(spec).slots
    if "weights" in edited.slots:
        changed = [n for n, w in edited.weights.items() if not torch.equal(w, model.parameter(n))]
        assert changed


@each
def test_it_erases_several_concepts_together(
    spec: Erasure, model: TextToImage, concepts: Mapping[str, Concept], erased: Erased
) -> None:
    both = [concepts["star"], concepts["sketch"]]
    edited = spec(model, both, rng=Rng(("c",)))
    assert edited.slots == erased(spec).slots
    assert set(edited.weights) <= set(spec.parameters(model))
    control = getattr(spec, "control", False)
    assert (edited.digest == erased(spec).digest) == control


@each
def test_an_edit_comes_back_from_a_folder_bit_by_bit(
    spec: Erasure, model: TextToImage, erased: Erased, tmp_path: Path
) -> None:
    edited = erased(spec)
    edited.save_edit(tmp_path)
    back = model.load_edit(tmp_path)
    assert back.digest == edited.digest
    assert back.guidance == edited.guidance
    assert back.filters == edited.filters
    assert set(back.weights) == set(edited.weights)
    assert all(torch.equal(back.weights[n], w) for n, w in edited.weights.items())


@each
def test_an_edit_of_another_base_is_refused(
    spec: Erasure, model: TextToImage, erased: Erased, tmp_path: Path
) -> None:
    erased(spec).save_edit(tmp_path)
    other = replace(model, backbone=replace(model.backbone, digest="0" * 64))
    with pytest.raises(ValueError, match=r"an edit of base .*load the base it was made from"):
        other.load_edit(tmp_path)


@each
def test_the_edited_model_samples_with_the_suites_sampler(
    spec: Erasure, model: TextToImage, erased: Erased, tiny_sampler: Sampler
) -> None:
    schedule, solver = dict(model.backbone.scheduler_config), tiny_sampler.digest
    edited = erased(spec)
    out = edited.sample(["a red star in a meadow", ""], [1, 2], tiny_sampler)
    assert out.images_B3HW.shape == (2, 3, *[4 * model.latent_shape[-1]] * 2)
    assert torch.isfinite(out.images_B3HW).all()
    assert 0 <= out.images_B3HW.min() <= out.images_B3HW.max() <= 1
    assert dict(edited.backbone.scheduler_config) == schedule
    assert tiny_sampler.digest == solver


@each
def test_the_spec_comes_back_from_its_fields(spec: Erasure) -> None:
    for mode in ("python", "json"):
        back = type(spec).model_validate(spec.model_dump(mode=mode))
        assert back == spec
        assert back.digest == spec.digest
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec


@each
def test_identity_fields_are_hashed_and_runtime_fields_are_not(spec: Erasure) -> None:
    runtime = runtime_fields(type(spec))
    for field in type(spec).model_fields:
        same = altered(spec, field).digest == spec.digest
        assert same == (field in runtime), field


@each
def test_the_spec_is_frozen_and_knows_its_fields(spec: Erasure) -> None:
    with pytest.raises(ValidationError):
        type(spec).model_validate({**spec.model_dump(), "no_such_field": 1})
    for field in type(spec).model_fields:
        with pytest.raises(ValidationError):
            setattr(spec, field, getattr(spec, field))
