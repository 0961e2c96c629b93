"""Writes the checkpoint families of the field on the miniature's shapes, each as its authors would save it."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Role
from bench.model.text_to_image import TextToImage
from methods.shared.erasers import MAPS, Erasers
from methods.shared.prompt_gates import GatedAdapters, gate_tensors, transformer_layers
from tests.methods.releases import compvis

__all__ = ["AS_IT_IS", "CONVERTED", "FAMILIES", "Family"]

AS_IT_IS, CONVERTED = "as it is", "after `convert`"
_KEY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"

Saved = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """A kind of release.

    Attributes:
        file: Its file, for the page.
        loads: ``as it is``, ``after `convert```, or ``refused: why``.
        make: Writes it into a folder, and returns what is given to ``convert`` or as ``path``, and the
            values that the edit should have.
        says: Words of the refusal.
        acts: The edited model as it should be, of a file that acts in the forward pass.
    """

    file: str
    loads: str
    make: Callable[[TextToImage, Path], tuple[Path, Saved]]
    says: str = ""
    acts: Callable[[TextToImage], TextToImage] | None = None


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("family", *shape)) / 10


def _edit(model: TextToImage, *keys: str) -> Saved:
    """Parameters whose names hold one of the keys, a tenth of their size away from the base's."""
    own = {n: w for n, w in model.backbone.parameters.items() if any(k in n for k in keys)}
    return {
        n: w + _drawn(*w.shape) * w.norm() / _drawn(*w.shape).norm() / 10 for n, w in own.items()
    }


def _unet(model: TextToImage, edit: Saved) -> Saved:
    """The whole UNet with the edit in it, by its own names."""
    whole = {**model.backbone.parameters, **edit}
    return {n.removeprefix("unet."): w.clone() for n, w in whole.items() if n.startswith("unet.")}


def _bare(edit: Saved) -> Saved:
    return {n.partition(".")[2]: w.contiguous() for n, w in edit.items()}


def _st(path: Path, tensors: Saved, about: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=about)
    return path


def _pt(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


_KV, _XATTN = ("attn2.to_k.weight", "attn2.to_v.weight"), ("attn2.",)


# -- parameters ----------------------------------------------------------------------------------


def _esd_2025(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    edit = {n: w.bfloat16() for n, w in _edit(model, *_XATTN).items()}
    about = {"family": "sd", "component": "unet", "base_model_id": "CompVis/stable-diffusion-v1-4"}
    about |= {"train_method": "xattn", "erase_concept": "star", "erase_from": "star"}
    return _st(folder / "esd-star-from-star-esdx.safetensors", _bare(edit), about), edit


def _whole_unet(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    edit = _edit(model, *_XATTN)
    return _pt(folder / "diffusers-star-ESDx1-UNET.pt", _unet(model, edit)), edit


def _original(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    edit = _edit(model, ".attn1.", ".self_attn.")
    rest = {"first_stage_model.decoder.conv_in.weight": _drawn(2, 2), "betas": _drawn(3)}
    state = compvis({**model.backbone.parameters, **edit}) | rest
    return _pt(folder / "compvis-star.ckpt", {"state_dict": state, "global_step": 1000}), edit


def _uce_2025(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    edit = _edit(model, *_KV)
    return _st(folder / "uce_models" / "star.safetensors", _bare(edit)), edit


def _speed(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    edit = _edit(model, "attn2.to_v.weight")
    return _pt(folder / "weight.pt", _bare(edit)), edit


def _pipeline(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    edit = _edit(model, *_KV, "mlp.fc1")
    model.with_weights(edit).to_diffusers().save_pretrained(folder / "pipe")
    return folder / "pipe", edit


def _old_pipeline(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    edit = _edit(model, *_KV, "mlp.fc1")
    whole = {**model.backbone.parameters, **edit}
    encoder = {n.partition(".")[2]: w for n, w in whole.items() if n.startswith("text_encoder.")}
    encoder["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    _pt(folder / "unet" / "diffusion_pytorch_model.bin", _unet(model, edit))
    _pt(folder / "text_encoder" / "pytorch_model.bin", encoder)
    return folder, edit


def _delta(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    edit = _edit(model, *_KV)
    return _pt(folder / "delta.bin", {"unet": _bare(edit), "modifier_token": {}}), edit


def _compressed(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    halves, edit = {}, {}
    for name in _edit(model, *_KV):
        own = model.parameter(name)
        u, v = _drawn(len(own), 2), _drawn(2, own.shape[1])
        halves[name.partition(".")[2]] = {"u": u, "v": v}
        edit[name] = own + u @ v
    return _pt(folder / "compressed_delta.bin", {"unet": halves}), edit


def _delta_of_the_original(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    edit = _edit(model, *_KV)
    state = compvis(edit) | {"embed": _drawn(1, 128)}
    return _pt(folder / "delta_epoch=000005.ckpt", {"state_dict": state}), edit


def _encoder(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    """The state of the authors' wrapper: the whole encoder, and three of its parts under second names."""
    edit = _edit(model, "text_encoder.")
    flat = {n.removeprefix("text_model."): w for n, w in _bare(edit).items()}
    state = {f"text_encoder.text_model.{n}": w for n, w in flat.items()}
    state["text_encoder.text_model.embeddings.position_ids"] = torch.arange(32)[None]
    for part in ("embeddings.", "encoder.", "final_layer_norm."):
        second = "embedding." if part == "embeddings." else part
        state |= {second + n.removeprefix(part): w for n, w in flat.items() if n.startswith(part)}
    return _pt(folder / "TextEncoder-text_encoder_full-star.pt", state), edit


def _encoder_folder(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    edit = _edit(model, "text_encoder.")
    return _st(folder / "star" / "model.safetensors", _bare(edit)).parent, edit


# -- adapters ------------------------------------------------------------------------------------


def _halves(model: TextToImage) -> tuple[Tensor, Tensor, Saved]:
    own = model.parameter(f"unet.{_KEY}.weight")
    down, up = _drawn(2, own.shape[1]), _drawn(len(own), 2)
    return down, up, {f"unet.{_KEY}.weight": own + up @ down}


def _kohya(model: TextToImage) -> tuple[Saved, Saved]:
    down, up, edit = _halves(model)
    flat = f"lora_unet_{_KEY.replace('.', '_')}"
    tensors = {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
    return tensors | {f"{flat}.alpha": torch.tensor(2.0)}, edit


def _kohyas(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    tensors, edit = _kohya(model)
    about = {"ss_base_model_version": "sd_v1", "modelspec.architecture": "stable-diffusion-v1/lora"}
    return _st(folder / "lora.safetensors", tensors, about), edit


def _pefts(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    down, up, edit = _halves(model)
    module = f"base_model.model.{_KEY}"
    names = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    path = _st(folder / "adapter_model.safetensors", names)
    about = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    path.with_name("adapter_config.json").write_text(json.dumps(about))
    return folder, edit


def _diffusers(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    down, up, edit = _halves(model)
    names = {f"unet.{_KEY}.lora.down.weight": down, f"unet.{_KEY}.lora.up.weight": up}
    return _st(folder / "pytorch_lora_weights.safetensors", names), edit


def _membranes(model: TextToImage, rank: int) -> Saved:
    """SPM's halves by layer, as its hook has them."""
    return {
        name: half
        for layer, (out, given) in transformer_layers(model).items()
        for name, half in (
            (f"{layer}/down", _drawn(1, rank, given)),
            (f"{layer}/up", _drawn(1, out, rank)),
        )
    }


def _gated(rank: int, prompts: str) -> Callable[[TextToImage, Path], tuple[Path, Saved]]:
    """As SPM and ACE save an adapter: kohya's names, and the gate's prompts in the metadata."""

    def make(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
        tensors: Saved = {}
        for name, half in _membranes(model, rank).items():
            layer, _, which = name.removeprefix("unet.").partition("/")
            flat = f"lora_unet_{layer.replace('.', '_')}"
            sides = [1] * (model.parameter(f"unet.{layer}.weight").ndim - 2)
            tensors[f"{flat}.lora_{which}.weight"] = half[0].view(*half.shape[1:], *sides)
            tensors[f"{flat}.alpha"] = torch.tensor(1.0)
        about = {"prompts": prompts, "rank": str(rank), "alpha": "1.0"}
        return _st(folder / f"{prompts.partition(',')[0]}_last.safetensors", tensors, about), {}

    return make


def _with_gate(rank: int, *prompts: str) -> Callable[[TextToImage], TextToImage]:
    def acts(model: TextToImage) -> TextToImage:
        halves = _membranes(model, rank)
        halves = {n: w / rank if n.endswith("/up") else w for n, w in halves.items()}
        return model.with_hook(GatedAdapters(), {**halves, **gate_tensors(model, [prompts])})

    return acts


def _named(name: str, file: str) -> Callable[[TextToImage, Path], tuple[Path, Saved]]:
    """A file with a tensor of this name."""
    return lambda _, folder: (_st(folder / file, {name: _drawn(2, 3)}), {})


def _adapters(model: TextToImage) -> dict[str, Saved]:
    """Receler's adapters by block, with a rank of 2."""
    found = {}
    for layer in model.layers(Role.CROSS_ATTENTION):
        width = len(model.parameter(f"{layer}.to_out.0.weight"))
        shapes = ((2, width), (2,), (width, 2), (width,))
        found[layer.removeprefix("unet.").removesuffix(".transformer_blocks.0.attn2")] = {
            part: _drawn(*shape) for part, shape in zip(MAPS, shapes, strict=True)
        }
    return found


def _receler(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    (folder / "eraser_config.json").write_text('{"eraser_type": "adapter", "eraser_rank": 2}')
    states = {block: OrderedDict(one) for block, one in _adapters(model).items()}
    return _pt(folder / "eraser_weights.pt", states), {}


def _with_erasers(model: TextToImage) -> TextToImage:
    tensors = {
        f"unet.{block}.transformer_blocks.0.attn2/{part}": w
        for block, one in _adapters(model).items()
        for part, w in one.items()
    }
    return model.with_hook(Erasers(), tensors)


def _masks(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    path = folder / "timestep_0_layer_0.pkl"
    path.write_bytes(pickle.dumps(np.zeros((4, 4), dtype=bool)))
    return path, {}


def _module(model: TextToImage, folder: Path) -> tuple[Path, Saved]:
    return _pt(folder / "unet.pt", torch.nn.Sequential(torch.nn.Linear(2, 2))), {}


_HOOKS = "refused: it acts in the forward pass, and such files are not read yet"
_OTHER = "refused: for another class of base"
_MERGE = "refused: merge it into its model"

FAMILIES = {
    "ESD, 2025 and later": Family("`esd-….safetensors`, bf16, the trained names alone", AS_IT_IS, _esd_2025),
    "UCE, 2025": Family("`….safetensors`, keys and values alone", AS_IT_IS, _uce_2025),
    "ESD 2023, UCE 2023, RECE": Family("`….pt`, a whole UNet, diffusers' names", CONVERTED, _whole_unet),
    "ESD, SalUn, EraseDiff, ScissorHands, ANT": Family(
        "`.pt`, `.ckpt`, names of the original Stable Diffusion", CONVERTED, _original),
    "SPEED": Family("`weight.pt`, values alone", CONVERTED, _speed),
    "MACE, ANT, TRCE, EraseFlow, STEREO, WACE": Family("a pipeline folder, or its `unet`", AS_IT_IS, _pipeline),
    "FMN, and older pipelines": Family("a pipeline folder with `.bin`", CONVERTED, _old_pipeline),
    "Concept Ablation": Family("`delta.bin`, nested below `unet`", CONVERTED, _delta),
    "Concept Ablation, compressed": Family("`compressed_delta.bin`, `u` and `v`", CONVERTED, _compressed),
    "Concept Ablation, original names": Family("`delta_epoch=….ckpt`", CONVERTED, _delta_of_the_original),
    "AdvUnlearn": Family("`TextEncoder-….pt`", CONVERTED, _encoder),
    "AdvUnlearn, from the hub": Family("a subfolder per concept", AS_IT_IS, _encoder_folder),
    "LoRA of PEFT": Family("`adapter_model.safetensors` and its settings", AS_IT_IS, _pefts),
    "LoRA of diffusers": Family("`pytorch_lora_weights.safetensors`", AS_IT_IS, _diffusers),
    "LoRA of kohya": Family("`lora_unet_…`, `lora_te_…`, `lora_te1_…`", AS_IT_IS, _kohyas),
    "SPM": Family("`…_last.safetensors`, metadata `prompts`", AS_IT_IS, _gated(1, "star,asterisk"),
        acts=_with_gate(1, "star", "asterisk")),
    "ACE": Family("the same, gated by default", AS_IT_IS, _gated(4, "star"), acts=_with_gate(4, "star")),
    "Receler": Family("`eraser_weights.pt` and its settings", CONVERTED, _receler, acts=_with_erasers),
    "GLoCE": Family("`….lora_update.weight`, `….selector…`", _HOOKS,
        _named(f"{_KEY}.lora_update.weight", "gloce.safetensors"), "a gated adapter of GLoCE or CPE"),
    "CPE": Family("`….imp_center`, `….debias`", _HOOKS,
        _named(f"{_KEY}.imp_center", "cpe.safetensors"), "a gated adapter of GLoCE or CPE"),
    "SAeUron, Concept Steerers": Family("`sae.safetensors`", _HOOKS,
        _named("encoder.weight", "sae.safetensors"), "a sparse autoencoder"),
    "ConceptPrune": Family("pickled masks", "refused: no parameters; the method itself is here", _masks,
        "torch cannot read it"),
    "Task vectors": Family("a pickled module", "refused: its code would have to run", _module, "a whole module"),
    "EraseAnything, ESD, UCE on FLUX": Family("`transformer_blocks.…`", _OTHER,
        _named("transformer.transformer_blocks.0.attn.to_k.lora_A.weight", "flux.safetensors"), "(FLUX, SD3)"),
    "Adapters of SDXL, on a base of 1.x or 2.x": Family("`lora_te2_…`", _OTHER,
        _named("lora_te2_text_model_x.lora_down.weight", "xl.safetensors"), "an adapter of SDXL"),
    "DoRA": Family("`….dora_scale`", _MERGE, _named(f"{_KEY}.dora_scale", "dora.safetensors"), "a DoRA"),
    "LoHa": Family("`….hada_w1_a`", _MERGE, _named(f"{_KEY}.hada_w1_a", "loha.safetensors"), "a LoHa"),
    "LoKr": Family("`….lokr_w1`", _MERGE, _named(f"{_KEY}.lokr_w1", "lokr.safetensors"), "a LoKr"),
    "Textual inversion": Family("`<token>`", "refused: it edits no weights",
        _named("<star>", "learned_embeds.safetensors"), "a textual-inversion embedding"),
}  # fmt: skip
