"""Released adapters that act in the forward pass: what is refused of them when a plan is made, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.errors import UsageError
from bench.core.shipped import model_folder
from bench.interfaces import Concept, Rng, registry
from bench.model.text_to_image import TextToImage
from methods.checkpoint import Checkpoint
from methods.released.convert.convert import convert
from tests.methods.families import FAMILIES

Saved = dict[str, Tensor]
Changed = Callable[[Saved, dict[str, str]], object]
BLOCK = "mid_block.attentions.0"
FLAT = "lora_unet_mid_block_attentions_0_proj_in"


def built(path: Path, **fields: object) -> Checkpoint:
    spec = registry.build("method", {"checkpoint": {"path": str(path), **fields}})
    assert isinstance(spec, Checkpoint)
    return spec


def refusal(path: Path, **fields: object) -> str:
    """The words of a plan about a file."""
    with pytest.raises(UsageError) as caught:
        built(path, **fields).check_base(model_folder())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def spm(miniature: TextToImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SPM's."""
    return FAMILIES["SPM"].make(miniature, tmp_path_factory.mktemp("spm"))[0]


@pytest.fixture(scope="module")
def receler(miniature: TextToImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of Receler's, converted."""
    folder = tmp_path_factory.mktemp("receler")
    source, _ = FAMILIES["Receler"].make(miniature, folder)
    convert(str(source), str(folder / "receler.safetensors"))
    return folder / "receler.safetensors"


def other(path: Path, change: Changed) -> Path:
    """A copy with something else in it."""
    with safe_open(path, framework="pt") as opened:
        about = dict(opened.metadata() or {})
    tensors = load_file(path)
    change(tensors, about)
    made = path.with_name("other.safetensors")
    save_file(tensors, made, metadata=about)
    return made


GATED: dict[str, tuple[Changed, str]] = {
    "no text": (lambda t, a: a.update(prompts=" , "), "expected 1 to 1000 texts of the gate"),
    "too many": (lambda t, a: a.update(prompts="a," * 1001), "got 1001"),
    "alpha": (lambda t, a: a.update(alpha="4.0"), "to be 4, as the metadata"),
    "alpha is nothing": (lambda t, a: a.update(alpha="nan"), "to be nan, as the metadata"),
    "half": (lambda t, a: t.pop(f"{FLAT}.lora_up.weight"), "a down and an up half"),
    "shape": (
        lambda t, a: t.update({f"{FLAT}.lora_up.weight": torch.ones(3, 1, 1, 1)}),
        "expected a LoRA of unet.mid_block.attentions.0.proj_in.weight",
    ),
    "convolution": (
        lambda t, a: t.update({
            "lora_unet_conv_out.lora_down.weight": torch.ones(1, 32, 3, 3),
            "lora_unet_conv_out.lora_up.weight": torch.ones(4, 1, 1, 1),
        }),
        "linear layers and 1 x 1 convolutions",
    ),
    "another layer": (
        lambda t, a: t.update({"lora_unet_x.lora_down.weight": torch.ones(1, 3)}), "layers of the base",
    ),
    "no effect": (
        lambda t, a: t.update({n: w * 0 for n, w in t.items() if "lora_up" in n}), "got the base itself",
    ),
    "not finite": (
        lambda t, a: t.update({n: w * torch.nan for n, w in t.items() if "lora_up" in n}), "expected finite numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GATED)
def test_a_gated_file_that_does_not_fit_is_refused_in_the_plan(spm: Path, kind: str) -> None:
    change, said = GATED[kind]
    assert said in refusal(other(spm, change))


ERASERS: dict[str, tuple[Changed, str]] = {
    "type": (lambda t, a: a.update(eraser_type="lora"), "of the type adapter, got 'lora'"),
    "one is missing": (lambda t, a: t.pop(f"{BLOCK}.up.bias"), "got no unet.mid_block.attentions.0"),
    "shape": (
        lambda t, a: t.update({f"{BLOCK}.up.weight": torch.ones(3, 2)}),
        "expected 'mid_block.attentions.0.up.weight' of",
    ),
    "one too many": (
        lambda t, a: t.update({"mid_block.attentions.7.up.bias": torch.ones(3)}), "behind cross-attentions of the base",
    ),
    "beside": (lambda t, a: t.update({"conv_in.weight": torch.ones(3)}), "'conv_in.weight' beside them"),
    "no effect": (
        lambda t, a: t.update({n: w * 0 for n, w in t.items() if ".up." in n}), "got the base itself",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ERASERS)
def test_a_file_of_receler_that_does_not_fit_is_refused_in_the_plan(
    receler: Path, kind: str
) -> None:
    change, said = ERASERS[kind]
    assert said in refusal(other(receler, change))


def test_settings_of_parameters_are_refused(spm: Path, receler: Path) -> None:
    for path in (spm, receler):
        assert "acts in the forward pass" in refusal(path, scale=0.5)
        assert "acts in the forward pass" in refusal(path, values="difference")
    built(spm, scale=0.5, gate="open").check_base(model_folder())


def test_the_settings_beside_a_pickle_come_along(receler: Path) -> None:
    with safe_open(receler, framework="pt") as opened:
        about = opened.metadata()
    assert (about["eraser_type"], about["eraser_rank"]) == ("adapter", "2")


def test_they_act_and_change_no_parameter(spm: Path, receler: Path, model: TextToImage) -> None:
    latents = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    told = model.encode(["a star"])
    plain = model.denoise(latents, 500, told)
    for path in (spm, receler):
        spec = built(path)
        spec.check_base(model_folder())
        assert spec.remarks(model_folder()) == ()
        edited = spec(model, [Concept(text="star")], rng=Rng(("t",)))
        assert edited.slots == {"hooks"}
        assert float((edited.denoise(latents, 500, told) - plain).abs().max()) > 1e-3
