"""Recognises a file that is neither a network's parameters nor a LoRA, by its names and metadata.

Each is refused for what it is. An adapter merged as if it were plain, or one of another family of
models, gives numbers that no one published. The signs are those of the authors' releases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bench.core.errors import UsageError, shown
from bench.core.headers import TensorInfo
from methods.released.files import PARTS, SAID, Network

__all__ = ["other_base", "refuse_foreign"]

_HOOK = "it acts in the forward pass, and such files are not read yet; give a merged model"
_ADAPTER = "merge the adapter into its model and give that"
_CLASS = "its base is of another class than Stable Diffusion 1.x, 2.x and XL, which alone are read"
_XL = "give the model that it was made from, one of Stable Diffusion XL, as base"
_TOKEN = "it teaches the encoder a word and edits no weights; give an edited model"  # noqa: S105

# A pattern that one of the names matches in whole; what the file is; what to do.
_NAMES: tuple[tuple[str, str, str], ...] = (
    (r".*(lora_update|lora_degen|selector|imp_center|debias)\b.*",
     "a gated adapter of GLoCE or CPE", _HOOK),
    (r".*\.dora_scale|.*lora_magnitude_vector.*", "a DoRA", _ADAPTER),
    (r".*\.hada_[wt]\d.*", "a LoHa", _ADAPTER),
    (r".*\.lokr_[wt]\d.*", "a LoKr", _ADAPTER),
    (r".*\.oft_(blocks|diag|r).*", "an OFT adapter", _ADAPTER),
    (r".*\.lora_mid\.weight", "a LoCon in Tucker form", _ADAPTER),
    (r".*\.ia3_l.*|.*\.on_input", "an (IA)³ adapter", _ADAPTER),
    (r"(w_(enc|dec)|(encoder|decoder)\.(weight|bias)|(pre|latent)_bias|b_(enc|dec))",
     "a sparse autoencoder", _HOOK),
    (r"(lora_te3_|text_encoder_3\.).*", "an adapter of SD3", _CLASS),
    (r"(lora_)?(unet_|transformer_|transformer\.|diffusion_model\.)?"
     r"((single_|joint_)?transformer_blocks|double_blocks|single_blocks|joint_blocks)[._].*",
     "layers of a flow transformer (FLUX, SD3)", _CLASS),
    (r"(image_proj|ip_adapter)\..*", "an IP-Adapter", _HOOK),
    (r"(controlnet_|control_model\.|input_hint_block\.).*", "a ControlNet", _HOOK),
    (r".*motion_modules\..*", "a motion module of a video model", _CLASS),
    (r"(model\.diffusion_model|cond_stage_model|first_stage_model|model_ema)\..*",
     "other names, those of the original Stable Diffusion",
     "run `tvc-bench convert`, which gives it diffusers' names"),
)  # fmt: skip
_SECOND_ENCODER = re.compile(r"(lora_te2_|text_encoder_2\.).*", re.IGNORECASE)
_PATTERNS = [(re.compile(p, re.IGNORECASE), what, todo) for p, what, todo in _NAMES]

# What the trainers call a base: (a sign in metadata, what it is).
_ARCHITECTURE = ("modelspec.architecture", "ss_base_model_version", "family", "base_model_id")
_FAMILIES = (
    (r"(^|[^a-z])(sd)?xl(?![a-z])", "SDXL"),
    (r"flux", "FLUX"),
    (r"stable-diffusion-3|stable-diffusion-v3|(^|[^a-z])sd_?-?3", "SD3"),
    (r"hidream|z-image|hunyuan|pixart|kandinsky|cogvideo", "another class"),
)
_SECOND = re.compile(r"sd_?v?2|stable-diffusion-v?-?2", re.IGNORECASE)
_WIDTHS = (768, 1024, 1280)  # of the text encoders of Stable Diffusion 1.x, 2.x and XL
_WIDTH_OF_SECOND = 1024


def refuse_foreign(network: Network, width: int | None, *, is_xl: bool = False) -> None:
    """Refuses what cannot be laid over a base's parameters, by what it is.

    Args:
        network: What the headers say.
        width: Of the base's text states: 768 in Stable Diffusion 1.x, 1024 in 2.x; ``None``: not known.
        is_xl: Whether the base is of Stable Diffusion XL's family.

    Raises:
        UsageError: with what the file is, and what to do.
    """
    for what, todo in filter(
        None, (_kind(network, width, is_xl=is_xl), _family(network.metadata, width, is_xl=is_xl))
    ):
        raise UsageError(
            f"expected parameters of the base's {SAID}, or a LoRA, got {what} in "
            f"{network.origin}; {todo}"
        )


def other_base(network: Network, folder: Path | None) -> list[str]:
    """A line if the file names a base by an id that the folder does not bear: nobody can check more.

    Args:
        network: What the headers and the settings say.
        folder: The base's; those of the hub's cache are named for the repository.
    """
    said = network.metadata.get("base_model_id") or network.about.get("base_model_name_or_path")
    if not isinstance(said, str) or not said.strip() or folder is None:
        return []
    name = said.rstrip("/").rpartition("/")[2]
    if _letters(name) in _letters(str(folder)):
        return []
    return [
        f"{network.origin} says that it was made from {shown(said)}, and the base lies in {folder}: "
        "if that is another model, give the one that it was made from"
    ]


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


_Told = tuple[str, str] | None


def _kind(network: Network, width: int | None, *, is_xl: bool) -> _Told:
    told = _settings(network) or _by_name(network)
    if told is None and not is_xl:
        told = _of_xl(network)
    return told or _embedding(network, width)


def _settings(network: Network) -> _Told:
    kind = network.about.get("peft_type", "LORA")
    if kind != "LORA":
        return f"a {shown(kind)} adapter (by its settings)", _ADAPTER
    if network.about.get("use_dora"):
        return "a DoRA (by its settings)", _ADAPTER
    return None


def _by_name(network: Network) -> _Told:
    for pattern, what, todo in _PATTERNS:
        if name := next((n for n in network.tensors if pattern.fullmatch(n)), ""):
            return f"{what}, by {shown(name)}", todo
    return None


def _of_xl(network: Network) -> _Told:
    if name := next((n for n in network.tensors if _SECOND_ENCODER.fullmatch(n)), ""):
        return f"an adapter of SDXL (it has a second text encoder), by {shown(name)}", _XL
    return None


def _embedding(network: Network, width: int | None) -> _Told:
    """Textual inversion: rows of the text encoder's width, named for the token or as trainers do."""
    named = network.tensors.items()
    if 1 <= len(named) <= 4 and all(_is_word(name, info, width) for name, info in named):
        name, info = next(iter(named))
        return f"a textual-inversion embedding ({shown(name)} of {list(info.shape)})", _TOKEN
    return None


def _is_word(name: str, info: TensorInfo, width: int | None) -> bool:
    if len(info.shape) not in (1, 2):
        return False
    if re.fullmatch(r"<.*>|emb_params|string_to_param.*|clip_[lg]", name):
        return True
    return info.shape[-1] in (*_WIDTHS, width) and re.fullmatch(r"[^.]+", name) is not None


def _family(metadata: Mapping[str, str], width: int | None, *, is_xl: bool) -> _Told:
    said = {key: metadata[key] for key in _ARCHITECTURE if metadata.get(key)}
    if "base_model_id" in said:  # the owner, or the folder above, says nothing
        said["base_model_id"] = said["base_model_id"].rstrip("/").rpartition("/")[2]
    if (part := metadata.get("component", "")) and part not in PARTS:
        return f"an edit of the {shown(part)} (by its metadata)", _CLASS
    for key, value in said.items():
        for pattern, what in _FAMILIES:
            if re.search(pattern, value, re.IGNORECASE):
                if is_xl and what == "SDXL":
                    return None
                todo = _XL if what == "SDXL" else _CLASS
                return f"weights for {what} (its metadata say {key}: {shown(value)})", todo
    second = [(key, value) for key, value in said.items() if _SECOND.search(value)]
    if metadata.get("ss_v2", "").lower() == "true":
        second.append(("ss_v2", metadata["ss_v2"]))
    if second and width is not None and width != _WIDTH_OF_SECOND:
        key, value = second[0]
        return (
            f"weights for Stable Diffusion 2.x (its metadata say {key}: {shown(value)})",
            "give the model that they were made from as base",
        )
    return None
