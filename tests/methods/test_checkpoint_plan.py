"""Refusals when a plan is made, and releases of the field that are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

import methods.checkpoint as module
from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.core.shipped import model_folder
from bench.interfaces import Concept, Rng, registry
from bench.model.text_to_image import TextToImage
from methods.checkpoint import Checkpoint
from methods.shared.prompt_gates import GatedAdapters

Saved = dict[str, Tensor]
BASE = model_folder()
KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def built(path: Path, **fields: object) -> Checkpoint:
    spec = registry.build("method", {"checkpoint": {"path": str(path), **fields}})
    assert isinstance(spec, Checkpoint)
    return spec


def refusal(path: Path, **fields: object) -> str:
    """The words of a plan about a file."""
    with pytest.raises(UsageError) as caught:
        built(path, **fields).check_base(BASE)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("checkpoint:") == 1
    return str(caught.value)


def erased(path: Path, model: TextToImage, **fields: object) -> TextToImage:
    """The edit, after the plan's check."""
    spec = built(path, **fields)
    spec.check_base(BASE)
    return spec(model, [Concept(text="heart")], rng=Rng(("t",)))


def save(path: Path, tensors: Saved, about: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: w.contiguous() for n, w in tensors.items()}, path, metadata=about)
    return path


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("checkpoint", *shape)) / 10


def cross(model: TextToImage, *ends: str) -> Saved:
    """Parameters of the cross-attention, by the UNet's own names."""
    ends = ends or ("to_k.weight", "to_v.weight")
    return {
        n.removeprefix("unet."): w.clone()
        for n, w in model.backbone.parameters.items()
        if "attn2." in n and n.endswith(ends)
    }


def moved(tensors: Saved) -> Saved:
    """Every matrix with a tenth of its size in noise added, as an edit does."""
    return {
        n: w + drawn(*w.shape) * w.norm() / drawn(*w.shape).norm() / 10 for n, w in tensors.items()
    }


def a_lora(model: TextToImage) -> Saved:
    out, columns = model.parameter(f"unet.{KEY}.weight").shape
    flat = f"lora_unet_{KEY.replace('.', '_')}"
    return {
        f"{flat}.lora_down.weight": drawn(2, columns),
        f"{flat}.lora_up.weight": drawn(out, 2),
        f"{flat}.alpha": torch.tensor(1.0),
    }


# -- releases that are read ----------------------------------------------------------------------


def test_the_files_of_esd_and_uce_are_read_as_the_changed_parameters_alone(
    model: TextToImage, tmp_path: Path
) -> None:
    uce = moved(cross(model))
    path = save(tmp_path / "uce.safetensors", uce)
    assert set(erased(path, model, names="some").weights) == {f"unet.{n}" for n in uce}
    ends = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")
    esd = {n: w.bfloat16() for n, w in moved(cross(model, *ends)).items()}
    about = {
        **{"family": "sd", "component": "unet", "train_method": "xattn"},
        **{"base_model_id": "CompVis/stable-diffusion-v1-4", "erase_concept": "heart"},
    }
    for said in (None, about):
        path = save(tmp_path / "esd.safetensors", esd, said)
        edited = erased(path, model, names="some")
        assert set(edited.weights) == {f"unet.{n}" for n in esd}
    for file in (path, tmp_path / "uce.safetensors"):
        assert "or set `names: some`" in refusal(file, names="all")
        assert erased(file, model).digest == erased(file, model, names="some").digest


def test_aces_static_form_is_read_where_its_metadata_are_gone(
    model: TextToImage, tmp_path: Path
) -> None:
    path = save(tmp_path / "ace.safetensors", a_lora(model))
    assert list(erased(path, model).weights) == [f"unet.{KEY}.weight"]


# -- differences ---------------------------------------------------------------------------------


def test_differences_are_no_values_and_are_added_where_that_is_said(
    model: TextToImage, tmp_path: Path
) -> None:
    own = cross(model)
    new = moved(own)
    path = save(tmp_path / "delta.safetensors", {n: new[n] - own[n] for n in own})
    for fields, said in (
        ({"names": "some"}, "set `values: difference`"),
        ({}, "set `values: difference`"),
        ({"names": "all"}, "set `values: difference` and `names: some`"),
    ):
        told = refusal(path, **fields)
        assert "got differences in" in told
        assert told.endswith(said)  # and not that a wrong option would do
    for scale in (1.0, 0.5):
        edited = erased(path, model, names="some", values="difference", scale=scale)
        assert set(edited.weights) == {f"unet.{n}" for n in own}
        for name, value in own.items():
            expected = value + scale * (new[name] - value)
            torch.testing.assert_close(edited.parameter(f"unet.{name}"), expected)
    path = save(tmp_path / "values.safetensors", new)
    assert "got parameters in" in refusal(path, names="some", values="difference")
    lora = save(tmp_path / "lora.safetensors", a_lora(model))
    assert "got a LoRA in" in refusal(lora, values="difference")


def test_a_whole_network_of_differences_is_told_by_the_few_that_are_not_zero(
    model: TextToImage, tmp_path: Path
) -> None:
    own = model.backbone.parameters
    few = cross(model, "to_v.weight")
    whole = {
        n.removeprefix("unet."): torch.zeros_like(w)
        for n, w in own.items()
        if n.startswith("unet.")
    }
    path = save(
        tmp_path / "delta.safetensors", whole | {n: w - few[n] for n, w in moved(few).items()}
    )
    assert refusal(path).endswith("set `values: difference`")
    assert set(erased(path, model, values="difference").weights) == {f"unet.{n}" for n in few}


def test_pruned_matrices_are_values(model: TextToImage, tmp_path: Path) -> None:
    pruned = {n: w * (w.abs() > 2 * w.abs().mean()) for n, w in cross(model).items()}
    kept = [float(w.norm() / model.parameter(f"unet.{n}").norm()) for n, w in pruned.items()]
    shrunk = {n: w / 10 for n, w in cross(model).items()}
    for number, tensors in enumerate((pruned, {n: w * 0.4 for n, w in pruned.items()}, shrunk)):
        path = save(tmp_path / f"{number}.safetensors", tensors)
        assert set(erased(path, model, names="some").weights) == {f"unet.{n}" for n in tensors}
    assert min(kept) < 0.9


def test_a_network_that_was_trained_anew_is_no_difference(
    model: TextToImage, tmp_path: Path
) -> None:
    anew = {n: drawn(*w.shape) * w.norm() / drawn(*w.shape).norm() for n, w in cross(model).items()}
    path = save(tmp_path / "anew.safetensors", anew)
    assert set(erased(path, model, names="some").weights) == {f"unet.{n}" for n in anew}


def test_the_kind_is_told_in_the_plan_at_any_size_and_the_rest_in_the_run(
    model: TextToImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHEAP", 0)
    own = cross(model)
    path = save(tmp_path / "delta.safetensors", {n: w - own[n] for n, w in moved(own).items()})
    assert "got differences in" in refusal(path, names="some")
    bias = "conv_in.bias"  # not among the matrices that are looked at
    bad = {**moved(own), bias: model.parameter(f"unet.{bias}") * torch.nan}
    spec = built(save(tmp_path / "bad.safetensors", bad), names="some")
    spec.check_base(BASE)
    with pytest.raises(UsageError, match=r"^checkpoint: expected finite .* in conv_in\.bias of"):
        spec(model, [Concept(text="heart")], rng=Rng(("t",)))


# -- what is refused for what it is --------------------------------------------------------------

KINDS: Mapping[str, tuple[Saved, dict[str, str], str]] = {
    "gloce": ({f"{KEY}.lora_update.weight": drawn(2, 3)}, {}, "gated adapter of GLoCE or CPE"),
    "selector": ({f"{KEY}.selector.select_weight.weight": drawn(2, 3)}, {}, "of GLoCE or CPE"),
    "dora": ({f"{KEY}.dora_scale": drawn(2, 3)}, {}, "got a DoRA"),
    "loha": ({f"lora_unet_{KEY}.hada_w1_a": drawn(2, 3)}, {}, "got a LoHa"),
    "lokr": ({f"lora_unet_{KEY}.lokr_w1": drawn(2, 3)}, {}, "got a LoKr"),
    "sae": ({"encoder.weight": drawn(8, 3), "decoder.weight": drawn(3, 8)}, {}, "sparse autoencoder"),
    "compvis": (
        {"model.diffusion_model.input_blocks.0.0.weight": drawn(3)}, {},
        "got other names, those of the original Stable Diffusion",
    ),
    "te2": ({"lora_te2_text_model_x.lora_down.weight": drawn(2, 3)}, {}, "an adapter of SDXL"),
    "flux": ({"transformer.transformer_blocks.0.attn.to_k.lora_A.weight": drawn(2, 3)}, {}, "FLUX"),
    "flux of kohya": ({"lora_unet_double_blocks_0_img_attn.lora_down.weight": drawn(2, 3)}, {}, "FLUX"),
    "token": ({"<cat>": drawn(1, 768)}, {}, "textual-inversion embedding ('<cat>' of [1, 768])"),
    "emb_params": ({"emb_params": drawn(2, 768)}, {}, "textual-inversion embedding ('emb_params'"),
    "string_to_param": ({"string_to_param.*": drawn(2, 768)}, {}, "textual-inversion embedding"),
    "xl by architecture": (
        {KEY: drawn(3)}, {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "weights for SDXL",
    ),
    "xl by kohya": ({KEY: drawn(3)}, {"ss_base_model_version": "sdxl_base_v1-0"}, "weights for SDXL"),
    "sd2 by kohya": ({KEY: drawn(3)}, {"ss_base_model_version": "sd_v2"}, "Stable Diffusion 2.x"),
    "sd2 by flag": ({KEY: drawn(3)}, {"ss_v2": "True"}, "Stable Diffusion 2.x"),
    "flux by family": ({KEY: drawn(3)}, {"family": "flux", "component": "unet"}, "weights for FLUX"),
    "component": ({KEY: drawn(3)}, {"component": "transformer"}, "an edit of the 'transformer'"),
    "base": (
        {KEY: drawn(3)}, {"base_model_id": "stabilityai/stable-diffusion-xl-base-1.0"}, "weights for SDXL",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_named_for_what_it_is(tmp_path: Path, kind: str) -> None:
    tensors, about, said = KINDS[kind]
    assert said in refusal(save(tmp_path / "a.safetensors", tensors, about), names="some")


def test_a_gated_adapter_is_no_lora_unless_its_gate_is_opened(
    model: TextToImage, tmp_path: Path
) -> None:
    tensors = a_lora(model)
    path = save(tmp_path / "spm.safetensors", tensors, {"prompts": "snoopy,mickey", "rank": "1"})
    plain = save(tmp_path / "plain.safetensors", tensors)
    gated, merged = erased(path, model), erased(path, model, gate="open")
    assert gated.slots == {"hooks"}
    assert gated.hooks[0].tensors["owner"].tolist() == [0, 0]
    assert merged.digest == erased(plain, model).digest
    assert built(path).ways_around() == GatedAdapters.bypassed_by
    assert built(path, gate="open").ways_around() == ()
    assert built(path).digest != built(path, gate="open").digest


ADAPTERS: Mapping[str, tuple[Callable[[Saved], Saved], dict[str, object], str]] = {
    "alpha is no number": (dict, {"lora_alpha": "x"}, "expected a number as the alpha"),
    "alpha is true": (dict, {"lora_alpha": True}, "expected a number as the alpha"),
    "alpha is huge": (dict, {"lora_alpha": 10**400}, "expected a number as the alpha"),
    "patterns are a list": (dict, {"alpha_pattern": [1]}, "expected a mapping of layers"),
    "a pattern's alpha": (dict, {"alpha_pattern": {"attn2.to_k": "x"}}, "expected a number as"),
    "rank-stabilised by text": (dict, {"use_rslora": "yes"}, "expected true or false"),
    "dora": (dict, {"use_dora": True}, "got a DoRA"),
    "another type": (dict, {"peft_type": "LOHA"}, "got a 'LOHA' adapter"),
    "a type that is none": (dict, {"peft_type": [1]}, "got a [1] adapter"),
    "rank 0": (
        lambda t: {n: w[:0] if "A" in n else w[:, :0] for n, w in t.items()}, {}, "got rank 0",
    ),
    "shapes": (lambda t: {n: w[:1] for n, w in t.items()}, {}, "got down (1, "),
    "scalars": (lambda t: {n: torch.tensor(1.0) for n in t}, {}, "got down () and up ()"),
    "a half": (lambda t: dict(list(t.items())[:1]), {}, "expected a down and an up half"),
    "an alpha alone": (
        lambda t: {**t, "unet.conv_in.alpha": torch.tensor(1.0)}, {}, "expected an alpha beside",
    ),
    "a layer twice": (
        lambda t: t | {f"base_model.model.{n}": w.clone() for n, w in t.items()}, {},
        "expected each layer once",
    ),
    "a prefix": (lambda t: {f"lora_te2_{n}": w for n, w in t.items()}, {}, "an adapter of SDXL"),
    "another prefix": (
        lambda t: {f"prior.{n}": w for n, w in t.items()}, {}, "expected a LoRA of layers of the base",
    ),
    "whole numbers": (lambda t: {n: w.long() for n, w in t.items()}, {}, "it is of I64"),
    "not finite": (lambda t: {n: w * torch.nan for n, w in t.items()}, {}, "expected finite numbers"),
    "overflow": (lambda t: {n: w * 1e30 for n, w in t.items()}, {}, "added; lower `scale`"),
}  # fmt: skip


@pytest.mark.parametrize("what", ADAPTERS)
def test_a_malformed_adapter_is_refused_in_the_plan(
    model: TextToImage, tmp_path: Path, what: str
) -> None:
    spoil, about, said = ADAPTERS[what]
    out, columns = model.parameter(f"unet.{KEY}.weight").shape
    tensors = {f"{KEY}.lora_A.weight": drawn(2, columns), f"{KEY}.lora_B.weight": drawn(out, 2)}
    path = save(tmp_path / "peft" / "adapter_model.safetensors", spoil(tensors))
    (path.parent / "adapter_config.json").write_text(json.dumps(about))
    assert said in refusal(path.parent)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff", b"[" * 9000, b'{"r": NaN}'])
def test_settings_that_are_no_mapping_are_refused(
    model: TextToImage, tmp_path: Path, text: bytes
) -> None:
    path = save(tmp_path / "adapter_model.safetensors", a_lora(model))
    (tmp_path / "adapter_config.json").write_bytes(text)
    assert "about the LoRA in" in refusal(path)


# -- what lies at the path -----------------------------------------------------------------------

SPECIAL: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (os.mkfifo, "got a FIFO"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "a link to a device"),
    "dangling": (lambda p: p.symlink_to("nowhere"), "a link to nothing"),
    "folder": (Path.mkdir, "a folder at "),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("deep", ["", "unet"])
@pytest.mark.parametrize("what", SPECIAL)
def test_only_regular_files_are_opened(
    model: TextToImage, tmp_path: Path, what: str, deep: str
) -> None:
    make, said = SPECIAL[what]
    path = tmp_path / deep / "a.safetensors"
    path.parent.mkdir(exist_ok=True)
    make(path)
    for given in (tmp_path, *([] if what == "folder" else [path])):
        assert said in refusal(given)
        assert said in refusal(given, sha256="0" * 64)
    (path.rmdir if what == "folder" else path.unlink)()
    save(path.parent / "adapter_model.safetensors", a_lora(model))
    make(path.parent / "adapter_config.json")
    assert said in refusal(path.parent)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(99), "a pickle of torch, renamed"),
        (b"\x80\x02}q\x00." + bytes(99), "a pickle, renamed"),
        (b"<!DOCTYPE html>\n<html>" + bytes(99), "a page of the web"),
        ((10**8).to_bytes(8, "little") + bytes(99), "its header would have 100000000 bytes"),
        ((2**63).to_bytes(8, "little") + bytes(99), "it does not begin as safetensors do"),
        ((2).to_bytes(8, "little") + b"[]", "no JSON object"),
    ],
)
def test_files_that_only_bear_the_name_are_named(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    assert said in refusal(path)


def test_a_file_that_was_cut_off_says_so_in_the_plan(model: TextToImage, tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.safetensors", cross(model)).read_bytes()
    for length, said in ((len(whole) - 1, "it is cut off: "), (100, "cut off in its header")):
        path = tmp_path / f"{length}.safetensors"
        path.write_bytes(whole[:length])
        assert said in refusal(path)


def test_a_name_that_is_not_utf8_is_refused(model: TextToImage, tmp_path: Path) -> None:
    path = save(tmp_path / "a" / "a.safetensors", cross(model))
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/\xff.safetensors"))
    assert "expected names in UTF-8" in refusal(path.parent)


@pytest.mark.parametrize("path", ["a/b", "~nosuchuser/a.safetensors", "a\0b", "b" * 300])
def test_paths_that_are_none_are_refused(path: str) -> None:
    told = refusal(Path(path))
    assert "got " in told
    if path == "a/b":
        assert "hf download a/b" in told


def test_a_file_that_is_elsewhere_is_left_to_the_run(tmp_path: Path) -> None:
    Checkpoint(path=str(tmp_path / "elsewhere.safetensors"), sha256="0" * 64).check_base(BASE)


def test_scales_have_bounds() -> None:
    for scale in (float("nan"), float("inf"), 1e9):
        with pytest.raises(ValidationError):
            Checkpoint(scale=scale)


@pytest.mark.parametrize("last", ["to_k", "to_v"])
def test_no_number_of_a_small_file_is_left_to_the_run(last: str, tmp_path: Path) -> None:
    """An edit is found at the first parameter that differs; the others are looked at too."""
    names = [f"unet.{KEY.removesuffix('to_k')}{part}.lora" for part in ("to_k", "to_v")]
    halves = {"down": drawn(2, 128), "up": drawn(32, 2)}
    lora = {f"{n}.{half}.weight": w.clone() for n in names for half, w in halves.items()}
    path = save(tmp_path / "lora.safetensors", lora)
    built(path).check_base(BASE)
    save(path, {n: w * torch.nan if f"{last}.lora.up" in n else w for n, w in lora.items()})
    assert (
        f"expected finite numbers, got others in unet.{KEY.removesuffix('to_k')}{last}"
        in refusal(path)
    )
