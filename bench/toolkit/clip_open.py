"""A CLIP of open_clip's architectures, from one safetensors file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import UsageError, shown
from bench.core.files import regular
from bench.core.json_files import read_object
from bench.core.kept import kept_while_same
from bench.core.lazy import torch
from bench.toolkit.clip_towers import Clip, Preprocess
from bench.toolkit.network_folder import word_files

__all__ = ["load_open_clip", "open_clip_files"]

_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_OPEN_CLIP_CONFIG = "open_clip_config.json"


def open_clip_files(weights: Path) -> tuple[Path, ...]:
    """The weights, and what is read beside them where it is there: the settings and the tokenizer's files."""
    beside = [path for path in [weights.parent / _OPEN_CLIP_CONFIG] if path.is_file()]
    return (weights, *beside, *word_files(weights.parent))


@kept_while_same(lambda architecture, weights, device: open_clip_files(weights), most=4)
def load_open_clip(architecture: str, weights: Path, device: str) -> Clip:
    """The CLIP of a file; see :func:`bench.toolkit.clip.load_clip` for the errors."""
    import open_clip

    architecture = architecture.replace("/", "-")
    if architecture not in (known := open_clip.list_models()):
        near = ", ".join(difflib.get_close_matches(architecture, known, n=3, cutoff=0.4)) or "none"
        raise ValueError(f"open_clip has no architecture {architecture!r}; near matches: {near}")
    if weights.suffix != ".safetensors":
        raise ValueError(
            f"expected a .safetensors file, got {weights}; pickled weights are not read: convert "
            "them"
        )
    if not weights.exists():
        raise FileNotFoundError(
            f"expected open_clip weights at {weights}, got no such file; nothing is downloaded: "
            "fetch them first"
        )
    regular(weights)
    model_config = open_clip.get_model_config(architecture)
    if hub := model_config["text_cfg"].get("hf_model_name"):
        raise ValueError(
            f"{architecture}: expected an architecture of open_clip's own, got one that is "
            f"configured by {hub!r} of the hub, which would be downloaded"
        )
    preprocess = _open_clip_preprocess(architecture, weights)
    words = _open_clip_tokenizer(architecture, weights, model_config["text_cfg"])
    try:
        with torch.random.fork_rng(devices=[]):
            network: Any = open_clip.create_model(
                architecture, pretrained=str(weights), precision="fp32", device="cpu"
            )
    except RuntimeError as error:
        raise ValueError(
            f"{weights}: expected weights of the architecture {architecture}, got others: {error}"
        ) from error
    network = network.to(device).eval().requires_grad_(False)
    size = network.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ValueError(f"{architecture}: expected a square input, got {height}x{width}")

    return Clip(
        width=model_config["embed_dim"],
        logit_scale=network.logit_scale.exp().item(),
        preprocess=Preprocess(size=height, **preprocess),
        encode_images=network.encode_image,
        encode_texts=lambda texts: network.encode_text(words(texts).to(device)),
        device=device,
    )


def _open_clip_preprocess(architecture: str, weights: Path) -> dict[str, Any]:
    """Fields of :class:`Preprocess`: the weights' own, else the architecture's if it has but one.

    open_clip keeps them with its *named* weights; for a file it would silently take OpenAI's.
    """
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    def fields(given: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "mean": tuple(given.get("mean") or _OPENAI_MEAN),
            "std": tuple(given.get("std") or _OPENAI_STD),
            "interpolation": given.get("interpolation") or "bicubic",
            "resize": given.get("resize_mode") or "shortest",
        }

    if (beside := weights.parent / _OPEN_CLIP_CONFIG).is_file():
        return fields(_preprocess_in(beside))
    options: list[dict[str, Any]] = []
    for tag in list_pretrained_tags_by_model(architecture):
        if (option := fields(get_pretrained_cfg(architecture, tag))) not in options:
            options.append(option)
    if len(options) > 1:
        raise ValueError(
            f"{weights}: expected {_OPEN_CLIP_CONFIG} beside the weights, got none; weights of "
            f"{architecture} were trained with different preprocessing: {options}"
        )
    return options[0] if options else fields({})


def _preprocess_in(path: Path) -> Mapping[str, Any]:
    given = read_object(path).get("preprocess_cfg", {})
    if not isinstance(given, Mapping):
        raise UsageError(f"{path}: preprocess_cfg: expected an object, got {shown(given)}")
    return given


def _open_clip_tokenizer(architecture: str, weights: Path, text_config: Mapping[str, Any]) -> Any:
    """open_clip's own tokenizer, or the one beside the weights where it takes one of the hub."""
    from open_clip import get_tokenizer

    hub = text_config.get("hf_tokenizer_name")
    if not hub:
        return get_tokenizer(architecture)
    folder = weights.parent
    if not all((folder / name).is_file() for name in (_OPEN_CLIP_CONFIG, "tokenizer.json")):
        raise FileNotFoundError(
            f"{architecture}: expected {_OPEN_CLIP_CONFIG} and tokenizer.json (of {hub!r}) in "
            f"{folder}, beside the weights; nothing is downloaded: fetch them first"
        )
    return get_tokenizer(f"local-dir:{folder}")
