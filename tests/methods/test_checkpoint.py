from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng, registry
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model
from methods.checkpoint import Checkpoint
from methods.released.lora import layers
from methods.released.values import alike

RNG = Rng(("checkpoint",))
HEART = Concept(text="heart")
Saved = dict[str, Tensor]


def part(model: TextToImage, name: str) -> Saved:
    """The parameters of a network by their own names."""
    return {
        n.removeprefix(f"{name}."): w.clone().contiguous()
        for n, w in model.backbone.parameters.items()
        if n.startswith(f"{name}.")
    }


def save(path: Path, tensors: Saved, about: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=about)
    return path


def erase(path: Path, model: TextToImage, **fields: object) -> TextToImage:
    spec = Checkpoint.model_validate({"path": str(path), **fields})
    return spec(model, [HEART], rng=RNG)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("checkpoint", *shape)) / 10


def a_key(model: TextToImage) -> str:
    return next(n for n in part(model, "unet") if n.endswith("attn2.to_k.weight"))


@pytest.fixture
def unet(model: TextToImage) -> Saved:
    """A UNet with one changed matrix."""
    tensors = part(model, "unet")
    tensors[a_key(model)] += 1
    return tensors


# -- whole networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet", "text_encoder"])
def test_a_file_of_one_network_changes_what_differs(
    model: TextToImage, tmp_path: Path, name: str
) -> None:
    tensors = part(model, name)
    key = sorted(tensors)[3]
    tensors[key] += 1
    edited = erase(save(tmp_path / "edited.safetensors", tensors), model)
    assert list(edited.weights) == [f"{name}.{key}"]
    assert torch.equal(edited.parameter(f"{name}.{key}"), tensors[key])
    assert edited.slots == {"weights"}
    assert set(edited.weights) <= set(Checkpoint().parameters(model))


def test_a_pipeline_that_diffusers_saved_comes_back(model: TextToImage, tmp_path: Path) -> None:
    names = [
        "unet.conv_in.weight",
        next(n for n in model.backbone.parameters if "text_encoder" in n),
    ]
    edited = model.with_weights({n: model.parameter(n) + 1 for n in names})
    edited.to_diffusers().save_pretrained(tmp_path / "pipe", safe_serialization=True)
    back = erase(tmp_path / "pipe", model)
    assert back.digest == edited.digest
    unet_alone = erase(tmp_path / "pipe" / "unet", model)
    assert list(unet_alone.weights) == names[:1]


def test_nested_and_flat_text_towers_are_one(model: TextToImage, tmp_path: Path) -> None:
    tensors = part(model, "text_encoder")
    tensors[sorted(tensors)[0]] += 1
    flat = {n.removeprefix("text_model."): w for n, w in tensors.items()}
    nested = {f"text_model.{n}": w for n, w in flat.items()}
    nested["text_model.embeddings.position_ids"] = torch.arange(8)
    one, two = (
        erase(save(tmp_path / f"{i}.safetensors", some), model)
        for i, some in enumerate((flat, nested))
    )
    assert one.digest == two.digest


def test_the_changed_parameters_alone_are_taken_unless_all_are_asked_for(
    model: TextToImage, tmp_path: Path
) -> None:
    name = f"unet.{a_key(model)}"
    path = save(tmp_path / "some.safetensors", {name: model.parameter(name) + 1})
    with pytest.raises(UsageError, match=r"got not all of these .* or set `names: some`"):
        erase(path, model, names="all")
    assert list(erase(path, model).weights) == [name]
    assert list(erase(path, model, names="some").weights) == [name]


def test_a_part_is_told_from_an_incomplete_network(
    model: TextToImage, unet: Saved, tmp_path: Path
) -> None:
    less = {n: w for n, w in unet.items() if "attn1." not in n}  # as of ESD's `noxattn`
    edited = erase(save(tmp_path / "part.safetensors", less), model)
    assert list(edited.weights) == [f"unet.{a_key(model)}"]
    lost = next(n for n in less if n.endswith("to_q.weight"))
    cut = {n: w for n, w in less.items() if n != lost}
    with pytest.raises(UsageError, match=r"got not all of these .* or set `names: some`"):
        erase(save(tmp_path / "cut.safetensors", cut), model)
    assert erase(tmp_path / "cut.safetensors", model, names="some").weights


def test_one_file_may_hold_both_networks(model: TextToImage, unet: Saved, tmp_path: Path) -> None:
    encoder = part(model, "text_encoder")
    key = next(n for n in encoder if n.endswith("fc1.weight"))
    encoder[key] += 1
    both = {f"unet.{n}": w for n, w in unet.items()}
    both |= {f"text_encoder.{n}": w for n, w in encoder.items()}
    edited = erase(save(tmp_path / "both.safetensors", both), model, names="all")
    assert set(edited.weights) == {f"unet.{a_key(model)}", f"text_encoder.{key}"}
    del both[f"text_encoder.{key}"]
    with pytest.raises(UsageError, match=r"parameters of the base's text_encoder, got not all"):
        erase(save(tmp_path / "both.safetensors", both), model)


def test_a_network_of_several_files_must_have_them_all(
    model: TextToImage, unet: Saved, tmp_path: Path
) -> None:
    names = sorted(unet)
    halves = {f"diffusion_pytorch_model-{i}.safetensors": names[i::3] for i in range(3)}
    for file, mine in halves.items():
        save(tmp_path / "unet" / file, {n: unet[n] for n in mine})
    index = {"weight_map": {name: file for file, mine in halves.items() for name in mine}}
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert list(erase(tmp_path, model).weights) == [f"unet.{a_key(model)}"]
    for file in list(halves)[1:]:  # what is left could pass for a part
        (tmp_path / "unet" / file).unlink()
    with pytest.raises(ValidationError, match=r"got none called 'diffusion_pytorch_model-1"):
        erase(tmp_path, model)


def test_rounding_to_half_precision_is_no_edit(
    model: TextToImage, tmp_path: Path, unet: Saved
) -> None:
    half = {n: w.half() for n, w in unet.items()}
    edited = erase(save(tmp_path / "half.safetensors", half), model)
    assert list(edited.weights) == [f"unet.{a_key(model)}"]


@pytest.fixture(scope="module")
def half() -> TextToImage:
    return load_model("miniature", dtype="bfloat16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_a_half_precision_base_would_round_away_is_no_edit(
    model: TextToImage, half: TextToImage, tmp_path: Path, unet: Saved, dtype: torch.dtype
) -> None:
    same = {n: w.to(dtype) for n, w in part(model, "unet").items()}
    with pytest.raises(UsageError, match="got the base itself"):
        erase(save(tmp_path / "same.safetensors", same), half)
    edited = {n: w.to(dtype) for n, w in unet.items()}
    back = erase(save(tmp_path / "edited.safetensors", edited), half)
    assert list(back.weights) == [f"unet.{a_key(model)}"]


def test_one_value_in_two_precisions_is_alike_and_its_neighbour_is_not() -> None:
    # bfloat16 has 8 significant bits: from 1 on its numbers are 2^-7 apart. 1 + 2^-8 + 2^-12 lies
    # over the middle of two of them, and float16, with 11 bits, rounds it into the middle.
    exact = torch.tensor([1 + 2**-8 + 2**-12], dtype=torch.float64)
    once, other = exact.to(torch.bfloat16), exact.to(torch.float16)
    assert (once.item(), other.to(torch.bfloat16).item()) == (1 + 2**-7, 1.0)
    assert alike(once, other)
    assert alike(other, once)
    assert not alike(once, torch.tensor([1.0], dtype=torch.float16))
    assert alike(once, exact.float())
    assert not alike(once, torch.tensor([1 + 2**-8 - 2**-12]))  # rounds to 1
    assert not alike(torch.tensor([1.0]), torch.tensor([1 + 2**-23]))  # of one precision


# -- LoRA ----------------------------------------------------------------------------------------

STYLES: Mapping[str, Callable[[str], tuple[str, str]]] = {
    "peft": lambda m: (f"unet.{m}.lora_A.weight", f"unet.{m}.lora_B.weight"),
    "peft adapter": lambda m: (
        f"base_model.model.{m}.lora_A.default.weight",
        f"base_model.model.{m}.lora_B.default.weight",
    ),
    "diffusers": lambda m: (f"unet.{m}.lora.down.weight", f"unet.{m}.lora.up.weight"),
    "processors": lambda m: (
        f"unet.{m.replace('.to_', '.processor.to_')}_lora.down.weight",
        f"unet.{m.replace('.to_', '.processor.to_')}_lora.up.weight",
    ),
    "kohya": lambda m: (
        f"lora_unet_{m.replace('.', '_')}.lora_down.weight",
        f"lora_unet_{m.replace('.', '_')}.lora_up.weight",
    ),
}


def lora(model: TextToImage, style: str) -> tuple[Saved, str, Tensor]:
    """A rank-2 adapter of one matrix: its tensors, the parameter, and ``up @ down``."""
    key = a_key(model)
    out, columns = model.parameter(f"unet.{key}").shape
    down, up = drawn(2, columns), drawn(out, 2)
    names = STYLES[style](key.removesuffix(".weight"))
    return dict(zip(names, (down, up), strict=True)), f"unet.{key}", up @ down


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_a_lora_is_merged(model: TextToImage, tmp_path: Path, style: str, scale: float) -> None:
    tensors, name, delta = lora(model, style)
    edited = erase(save(tmp_path / "lora.safetensors", tensors), model, scale=scale)
    assert list(edited.weights) == [name]
    torch.testing.assert_close(edited.parameter(name), model.parameter(name) + scale * delta)


def text_lora(model: TextToImage, style: str) -> Saved:
    """A rank-2 adapter of one output matrix of the text encoder."""
    layer = "encoder.layers.0.self_attn"
    out, columns = model.parameter(f"text_encoder.{layer}.out_proj.weight").shape
    module = {
        "old": f"text_encoder.text_model.{layer}.to_out_lora.",
        "kohya": f"lora_te_text_model_{layer.replace('.', '_')}_out_proj.lora_",
    }[style]
    return {f"{module}down.weight": drawn(2, columns), f"{module}up.weight": drawn(out, 2)}


@pytest.mark.parametrize(
    "style", ["peft", "diffusers", "processors", "kohya", "old te", "kohya te"]
)
def test_names_are_read_as_diffusers_own_reader_reads_them(model: TextToImage, style: str) -> None:
    kind, _, text = style.partition(" ")
    tensors = text_lora(model, kind) if text else lora(model, kind)[0]
    if kind == "kohya":  # diffusers asks for it
        tensors[f"{next(iter(tensors)).partition('.')[0]}.alpha"] = torch.tensor(2.0)
    read, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(dict(tensors))
    name = "text_encoder" if text else "unet"
    bare = {key.removeprefix(f"{name}."): value for key, value in read.items()}
    as_peft = (convert_state_dict_to_peft if text else convert_unet_state_dict_to_peft)(bare)
    theirs = {re.sub(r"\.lora_[AB]\.weight$", ".weight", f"{name}.{key}") for key in as_peft}
    own = {key: tuple(w.shape) for key, w in model.backbone.parameters.items()}
    shapes = {key: tuple(w.shape) for key, w in tensors.items()}
    ours = layers(own, shapes, {}, lambda name: float(tensors[name]), origin=style)
    assert [layer.parameter.replace("text_model.", "") for layer in ours] == [
        key.replace("text_model.", "") for key in theirs
    ]
    assert [layer.strength for layer in ours] == [1.0]


def test_alpha_is_divided_by_the_rank_wherever_it_is_written(
    model: TextToImage, tmp_path: Path
) -> None:
    tensors, name, delta = lora(model, "kohya")
    alpha = {next(iter(tensors)).partition(".")[0] + ".alpha": torch.tensor(1.0)}
    paths = [save(tmp_path / "kohya.safetensors", {**tensors, **alpha})]
    tensors, _, _ = lora(model, "diffusers")
    said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 1, "unet.r": 2})}
    paths.append(save(tmp_path / "diffusers.safetensors", tensors, said))
    tensors, _, _ = lora(model, "peft adapter")
    paths.append(save(tmp_path / "peft" / "adapter_model.safetensors", tensors).parent)
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({"lora_alpha": 1, "r": 2}))
    for path in paths:
        found = erase(path, model).parameter(name)
        torch.testing.assert_close(found, model.parameter(name) + 0.5 * delta)


RANK_2_FACTORS: Mapping[str, tuple[dict[str, object], float]] = {
    "nothing said": ({}, 1.0),
    "alpha": ({"lora_alpha": 1}, 0.5),
    "rank-stabilised": ({"lora_alpha": 1, "use_rslora": True}, 2**-0.5),
    "rank-stabilised without alpha": ({"use_rslora": True}, 2**0.5),
    "not rank-stabilised": ({"lora_alpha": 4, "use_rslora": False}, 2.0),
    "alpha of the layer": ({"lora_alpha": 4, "alpha_pattern": {"attn2.to_k": 1}}, 0.5),
    "alpha of another layer": ({"lora_alpha": 4, "alpha_pattern": {"tn2.to_k": 1}}, 2.0),
}


@pytest.mark.parametrize("what", RANK_2_FACTORS)
def test_the_strength_is_what_the_settings_say(
    model: TextToImage, tmp_path: Path, what: str
) -> None:
    about, factor = RANK_2_FACTORS[what]
    tensors, name, delta = lora(model, "peft adapter")
    save(tmp_path / "peft" / "adapter_model.safetensors", tensors)
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(about))
    tensors, _, _ = lora(model, "diffusers")
    said = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in about.items()})}
    header = save(tmp_path / "diffusers.safetensors", tensors, said)
    for path in (tmp_path / "peft", header):
        found = erase(path, model).parameter(name)
        torch.testing.assert_close(found, model.parameter(name) + factor * delta)


@pytest.mark.parametrize("about", [{"lora_alpha": "x"}, {"alpha_pattern": {".*": 1}}])
def test_settings_that_are_not_understood_are_refused(
    model: TextToImage, tmp_path: Path, about: dict[str, object]
) -> None:
    tensors, _, _ = lora(model, "diffusers")
    said = {"lora_adapter_metadata": json.dumps(about)}
    with pytest.raises(UsageError, match=r"expected (a number as the alpha|names of layers)"):
        erase(save(tmp_path / "lora.safetensors", tensors, said), model)


def test_kernels_output_layers_and_the_text_tower_have_loras_too(
    model: TextToImage, tmp_path: Path
) -> None:
    attention = a_key(model).removesuffix("to_k.weight")
    layer = next(n for n in part(model, "text_encoder") if n.endswith("q_proj.weight"))
    bare = layer.removeprefix("text_model.").removesuffix(".weight")
    wanted = {
        "unet.conv_in.weight": "lora_unet_conv_in",
        f"unet.{attention}to_out.0.weight": f"unet.{attention}processor.to_out_lora",
        f"text_encoder.{layer}": f"lora_te_text_model_{bare.replace('.', '_')}",
    }
    tensors: Saved = {}
    deltas: Saved = {}
    for name, module in wanted.items():
        W = model.parameter(name)
        down, up = drawn(2, *W.shape[1:]), drawn(len(W), 2, *[1] * (W.ndim - 2))
        joint = "." if module.endswith("_lora") else ".lora_"
        tensors |= {f"{module}{joint}down.weight": down, f"{module}{joint}up.weight": up}
        deltas[name] = (up.flatten(1) @ down.flatten(1)).reshape(W.shape)
    edited = erase(save(tmp_path / "lora.safetensors", tensors), model)
    assert set(edited.weights) == set(wanted)
    for name, delta in deltas.items():
        torch.testing.assert_close(edited.parameter(name), model.parameter(name) + delta)


# -- what the contract asks of every method ------------------------------------------------------


def test_it_is_registered_and_says_what_it_needs(
    model: TextToImage, unet: Saved, tmp_path: Path
) -> None:
    assert registry.get("method", "checkpoint") is Checkpoint
    assert Checkpoint.needs == ("path",)
    with pytest.raises(
        UsageError, match="expected the path of an edited model as `path`, got none"
    ):
        Checkpoint()(model, [HEART], rng=RNG)
    path = save(tmp_path / "unet.safetensors", unet)
    built = registry.build("method", {"checkpoint": {"path": str(path)}})
    assert built == Checkpoint(path=str(path))


def test_an_edit_leaves_the_base_alone_samples_and_comes_back(
    model: TextToImage, unet: Saved, tmp_path: Path, tiny_sampler: Sampler,
    fingerprint: Callable[[TextToImage], str], global_rng_untouched: None,
) -> None:  # fmt: skip
    before = fingerprint(model)
    path = save(tmp_path / "unet.safetensors", unet)
    edited = erase(path, model)
    assert edited.digest == erase(path, model).digest != model.digest
    assert fingerprint(model) == before
    assert torch.isfinite(edited.sample(["a heart"], [1], tiny_sampler).images_B3HW).all()
    (tmp_path / "edit").mkdir()
    edited.save_edit(tmp_path / "edit")
    assert model.load_edit(tmp_path / "edit").digest == edited.digest


def test_its_identity_is_the_content_wherever_it_lies(tmp_path: Path, unet: Saved) -> None:
    one, copy, other = (tmp_path / f"{n}.safetensors" for n in ("one", "copy", "other"))
    save(one, unet)
    copy.write_bytes(one.read_bytes())
    save(other, {**unet, "conv_in.bias": unet["conv_in.bias"] + 1})
    specs = [Checkpoint(path=str(p)) for p in (one, copy, other)]
    assert specs[0].digest == specs[1].digest != specs[2].digest
    assert specs[0].label == f"checkpoint(one.safetensors, {specs[0].sha256[:8]})"
    back = Checkpoint.model_validate_json(specs[0].model_dump_json())
    assert back == specs[0]
    assert Checkpoint(path=str(one), scale=0.5).digest != specs[0].digest
    assert Checkpoint(path=str(one), names="some").digest != specs[0].digest
    # Names that are found out change no digest of the time when all were asked for.
    assert specs[0].names == "auto"
    assert specs[0].identity()["fields"]["names"] == "all"
    assert Checkpoint(path=str(one), names="all").digest == specs[0].digest
    folders = []
    for name in ("a", "b"):
        save(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors", unet)
        folders.append(Checkpoint(path=str(tmp_path / name)).digest)
    assert folders[0] == folders[1]


def test_a_file_that_has_changed_since_is_refused(
    model: TextToImage, unet: Saved, tmp_path: Path
) -> None:
    path = save(tmp_path / "unet.safetensors", unet)
    spec = Checkpoint(path=str(path))
    save(path, {**unet, "conv_in.bias": unet["conv_in.bias"] + 1})
    with pytest.raises(UsageError, match="it has changed; restore it or correct `sha256`"):
        spec(model, [HEART], rng=RNG)


# -- what is refused -----------------------------------------------------------------------------


def test_the_base_itself_is_no_edit(model: TextToImage, tmp_path: Path) -> None:
    whole = save(tmp_path / "base.safetensors", part(model, "unet"))
    with pytest.raises(UsageError, match="got the base itself"):
        erase(whole, model)
    tensors, _, _ = lora(model, "peft")
    empty = {n: torch.zeros_like(w) for n, w in tensors.items()}
    with pytest.raises(UsageError, match="got the base itself"):
        erase(save(tmp_path / "lora.safetensors", empty), model)


Spoil = Callable[[Saved], Saved]
BAD: Mapping[str, tuple[Spoil, str]] = {
    "a shape": (
        lambda t: {**t, "conv_in.bias": torch.zeros(3)},
        r"expected unet\.conv_in\.bias of shape \(\d+,\), got \(3,\)",
    ),
    "a missing name": (
        lambda t: {n: w for n, w in t.items() if n != "conv_in.bias"},
        r"got not all of these .*: 1, e\.g\. unet\.conv_in\.bias",
    ),
    "an extra name": (
        lambda t: {**t, "conv_more.bias": torch.zeros(3)},
        r"got more than these .*: 1, e\.g\. conv_more\.bias",
    ),
    "not a number": (
        lambda t: {**t, "conv_in.bias": t["conv_in.bias"] * torch.nan},
        r"expected finite numbers, got others in conv_in\.bias of ",
    ),
    "whole numbers": (
        lambda t: {**t, "conv_in.bias": t["conv_in.bias"].long()},
        r"expected finite numbers, got others in conv_in\.bias of ",
    ),
    "other names": (
        lambda t: {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(3)},
        r"expected parameters of the base's unet or text_encoder, or a LoRA, got other names",
    ),
    "nothing": (lambda t: {}, r"got other names in .*, e\.g\. none"),
}


@pytest.mark.parametrize("what", BAD)
def test_networks_that_do_not_fit_are_refused(
    model: TextToImage, unet: Saved, tmp_path: Path, what: str
) -> None:
    spoil, message = BAD[what]
    with pytest.raises(UsageError, match=message) as caught:
        erase(save(tmp_path / "bad.safetensors", spoil(unet)), model)
    assert "\n" not in str(caught.value)


BAD_LORAS: Mapping[str, tuple[Spoil, str]] = {
    "one half": (
        lambda t: dict(list(t.items())[:1]),
        "expected a down and an up half of each layer",
    ),
    "a rank": (
        lambda t: {n: w[:1] if "lora_A" in n else w for n, w in t.items()},
        r"expected a LoRA of unet\..* of shape .*, got down \(1, \d+\) and up \(\d+, 2\)",
    ),
    "a layer": (
        lambda t: {n.replace("attn2", "attn9"): w for n, w in t.items()},
        "expected a LoRA of layers of the base, got unet",
    ),
    "a kohya layer": (
        lambda t: {"lora_unet_input_blocks_1_1_proj_in.lora_down.weight": torch.zeros(2, 3)},
        "expected a LoRA of layers of the base, got lora_unet_input_blocks_1_1_proj_in",
    ),
    "another adapter": (
        lambda t: {**t, "unet.conv_in.lora_magnitude_vector": torch.zeros(3)},
        r"got a DoRA, by 'unet\.conv_in\.lora_magnitude_vector' in .*; merge the adapter",
    ),
    "an infinity": (
        lambda t: {n: w * torch.inf for n, w in t.items()},
        "expected finite numbers, got others in unet",
    ),
}


@pytest.mark.parametrize("what", BAD_LORAS)
def test_loras_that_do_not_fit_are_refused(model: TextToImage, tmp_path: Path, what: str) -> None:
    spoil, message = BAD_LORAS[what]
    tensors, _, _ = lora(model, "peft")
    with pytest.raises(UsageError, match=message):
        erase(save(tmp_path / "bad.safetensors", spoil(tensors)), model)


def test_a_whole_model_has_no_scale(model: TextToImage, unet: Saved, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a LoRA to scale by 0\.5, got whole parameters"):
        erase(save(tmp_path / "unet.safetensors", unet), model, scale=0.5)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.ckpt", "unet/weights.bin"])
def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\x80\x04.")
    given = path if path.parent == tmp_path else tmp_path
    with pytest.raises(ValidationError, match=r"got the pickle .*safe_serialization=True"):
        Checkpoint(path=str(given))


def test_files_that_are_none_are_refused(model: TextToImage, tmp_path: Path) -> None:
    with pytest.raises(
        ValidationError, match=r"nowhere, which is not there; nothing is downloaded"
    ):
        Checkpoint(path=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="which is not there"):
        Checkpoint(path=str(tmp_path / "nowhere"), sha256="0" * 64)(model, [HEART], rng=RNG)
    with pytest.raises(ValidationError, match=r"expected safetensors in .*got none"):
        Checkpoint(path=str(tmp_path))
    (tmp_path / "weights.txt").write_text("weights")
    with pytest.raises(ValidationError, match=r"expected a \.safetensors file or a folder"):
        Checkpoint(path=str(tmp_path / "weights.txt"))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    with pytest.raises(UsageError, match="which cannot be read"):
        erase(tmp_path / "cut.safetensors", model)


def test_fields_are_checked() -> None:
    for fields in ({"sha256": "abc"}, {"names": "few"}, {"scale": "x"}, {"paths": "x"}):
        with pytest.raises(ValidationError):
            Checkpoint.model_validate(fields)


@pytest.mark.parametrize(
    "pickle", ["text_encoder/pytorch_model.bin", "text_encoder/model.pt", "text_encoder.ckpt"]
)
def test_a_pickled_network_beside_a_readable_one_is_refused(
    unet: Saved, tmp_path: Path, pickle: str, model: TextToImage
) -> None:
    save(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", unet)
    (tmp_path / "text_encoder").mkdir()
    if "/" not in pickle:
        save(tmp_path / "text_encoder" / "model.safetensors", part(model, "text_encoder"))
    (tmp_path / pickle).write_bytes(b"\x80\x04.")
    message = rf"got the pickle {pickle} .*safe_serialization=True.*or give .*unet, if that alone"
    with pytest.raises(ValidationError, match=message):
        Checkpoint(path=str(tmp_path))
    assert list(erase(tmp_path / "unet", model).weights) == [f"unet.{a_key(model)}"]


def test_a_network_without_weights_beside_a_readable_one_is_refused(
    unet: Saved, tmp_path: Path
) -> None:
    save(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", unet)
    (tmp_path / "text_encoder").mkdir()
    with pytest.raises(ValidationError, match=r"expected safetensors in .*text_encoder, got none"):
        Checkpoint(path=str(tmp_path))


def test_pickles_of_what_is_not_read_and_copies_play_no_part(
    model: TextToImage, unet: Saved, tmp_path: Path
) -> None:
    save(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", unet)
    for name in ("unet/diffusion_pytorch_model.bin", "vae/model.bin", "v1-5-pruned.ckpt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x80\x04.")
    assert list(erase(tmp_path, model).weights) == [f"unet.{a_key(model)}"]
