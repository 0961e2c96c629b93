from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.core.errors import UsageError
from bench.interfaces import Concept, Rng
from bench.model.text_to_image import TextToImage
from tvc.method import TaskVectorErasure
from tvc.task_vector import TaskVector, block_of, subtract_in_place


def test_strength_zero_is_the_base_bit_for_bit(model: TextToImage, vector: TaskVector) -> None:
    edited = vector.subtracted(model, 0.0)
    assert set(edited.weights) == set(vector.deltas)
    assert all(torch.equal(w, model.parameter(n)) for n, w in edited.weights.items())


def test_strength_minus_one_is_the_fine_tuned_model(model: TextToImage) -> None:
    name = "unet.conv_in.weight"
    g = torch.Generator().manual_seed(1)
    tuned = model.parameter(name) * (
        1 + 0.05 * torch.randn(model.parameter(name).shape, generator=g)
    )
    back = TaskVector.between(model, {name: tuned}).subtracted(model, -1.0).weights[name]
    torch.testing.assert_close(back, tuned, rtol=2e-7, atol=0)


def test_it_is_linear(model: TextToImage, vector: TaskVector) -> None:
    twice = (vector + vector).subtracted(model, 0.5)
    once = (2.0 * vector).restricted(lambda n: True).subtracted(model, 0.5)
    back = (-vector).subtracted(model, -1.0)
    for name, delta in vector.deltas.items():
        expected = model.parameter(name) - delta
        for edited in (twice, once, back):
            torch.testing.assert_close(edited.weights[name], expected)


def test_vectors_over_different_parameters_add(vector: TaskVector) -> None:
    first, second = vector.deltas
    one, other = (vector.restricted(lambda n, k=k: n == k) for k in (first, second))  # type: ignore[misc]
    both = one + other
    assert set(both.deltas) == {first, second}
    assert all(torch.equal(both.deltas[n], vector.deltas[n]) for n in both.deltas)


def test_norms_are_told_by_block(vector: TaskVector) -> None:
    norms = vector.norms()
    assert set(norms) == {"unet.conv_in", "unet.mid_block"}
    assert norms["unet.conv_in"] == pytest.approx(
        float(vector.deltas["unet.conv_in.weight"].norm()), rel=1e-5
    )
    assert block_of("unet.up_blocks.2.attentions.0.proj_in.weight") == "unet.up_blocks.2"


def test_another_base_is_refused(model: TextToImage, vector: TaskVector) -> None:
    other = replace(model, backbone=replace(model.backbone, digest="0" * 64))
    with pytest.raises(ValueError, match="load the base it was made from"):
        vector.subtracted(other, 1.0)
    with pytest.raises(ValueError, match="different bases"):
        vector + TaskVector("0" * 64, vector.deltas)


def test_an_empty_subset_is_refused(vector: TaskVector) -> None:
    with pytest.raises(ValueError, match="none of the task vector's parameters"):
        vector.restricted(lambda n: False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(model: TextToImage, value: float) -> None:
    name = "unet.conv_in.weight"
    tuned = model.parameter(name).clone()
    tuned[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="lower its learning rate"):
        TaskVector.between(model, {name: tuned})


def test_a_strength_that_overflows_is_refused(model: TextToImage, vector: TaskVector) -> None:
    with pytest.raises(ValueError, match="not finite"):
        (1e30 * vector).subtracted(model, 1e30)


def test_a_wrong_shape_or_name_is_refused(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="one architecture"):
        TaskVector.between(model, {"unet.conv_in.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="no such parameter"):
        TaskVector.between(model, {"unet.nothing": torch.zeros(3)})


def test_it_comes_back_from_a_file(vector: TaskVector, tmp_path: Path) -> None:
    vector.save(tmp_path / "v.safetensors", concept="heart")
    back = TaskVector.load(tmp_path / "v.safetensors")
    assert back.base == vector.base
    assert all(torch.equal(back.deltas[n], d) for n, d in vector.deltas.items())
    assert not list(tmp_path.glob("*.part"))


def test_damaged_and_foreign_files_are_refused(vector: TaskVector, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "v.safetensors"
    vector.save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        TaskVector.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a task vector"):
        TaskVector.load(path)


def _networks() -> dict[str, nn.Module]:
    return {"unet": nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))}


def test_in_place_is_the_same_edit(tmp_path: Path) -> None:
    networks = _networks()
    before = {f"unet.{n}": w.detach().clone() for n, w in networks["unet"].named_parameters()}
    vector = TaskVector("b", {n: torch.ones_like(w) for n, w in before.items()})
    vector.save(tmp_path / "v.safetensors")
    subtract_in_place(networks, tmp_path / "v.safetensors", 0.25)
    for name, weight in networks["unet"].named_parameters():
        torch.testing.assert_close(weight, before[f"unet.{name}"] - 0.25)


def test_in_place_changes_nothing_if_anything_does_not_fit(tmp_path: Path) -> None:
    networks = _networks()
    before = [w.detach().clone() for w in networks["unet"].parameters()]
    TaskVector("b", {"unet.0.weight": torch.ones(2, 3), "unet.9.weight": torch.ones(1)}).save(
        tmp_path / "v.safetensors"
    )
    with pytest.raises(ValueError, match=r"unet\.9\.weight"):
        subtract_in_place(networks, tmp_path / "v.safetensors", 1.0)
    assert all(
        torch.equal(a, b) for a, b in zip(before, networks["unet"].parameters(), strict=True)
    )


@pytest.mark.parametrize("preset", TaskVectorErasure.presets)
def test_another_base_than_the_miniature_needs_a_clip_to_look_through(
    model: TextToImage, preset: str, tmp_path: Path
) -> None:
    other = replace(model, backbone=replace(model.backbone, folder=tmp_path))
    spec = TaskVectorErasure.preset(preset)
    with pytest.raises(UsageError, match=r"^task_vector\.clip: expected the source of a CLIP"):
        spec(other, [Concept(text="star")], rng=Rng(("clip",)))
