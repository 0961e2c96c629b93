"""CLIP models from local files, for judges and metrics; nothing is downloaded, nothing unpickled.

A source is one of

* the path of a folder that holds a transformers ``CLIPModel``: ``config.json``, safetensors weights
  and ``preprocessor_config.json``; the tokenizer lies in the same folder or, as in a folder of a
  Stable Diffusion pipeline, in the one beside it, ``../tokenizer``;
* ``open_clip:<architecture>@<path of a .safetensors file>``. OpenAI's own weights were trained with
  another activation function: they need an architecture whose name ends in ``-quickgelu``;
* the empty string: the miniature's CLIP, for the miniature: :func:`check_source` refuses it on a base
  that does not bring the same one along, because it would see nothing in other models' images.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.core.clock import model_time
from bench.core.errors import UsageError, shown
from bench.core.files import all_regular, expanded, regular
from bench.core.json_files import read_object
from bench.core.lazy import F, torch
from bench.core.shipped import clip_folder
from bench.core.spec import content

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Clip", "Preprocess", "check_source", "clip_files", "load_clip"]

Items = TypeVar("Items")

_CHUNK = 64
_OWN = "clip"  # beside a base's networks
_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_OPEN_CLIP = "open_clip:"
_HF_PREPROCESS = "preprocessor_config.json"
_OPEN_CLIP_CONFIG = "open_clip_config.json"


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How pixels reach the image tower.

    Attributes:
        size: Side of the square input.
        mean: Of each channel, subtracted.
        std: Of each channel, divided by.
        interpolation: ``bicubic`` or ``bilinear``, both antialiased.
        resize: ``shortest`` scales the shorter side to the size and crops the centre; ``squash``
            scales each side to the size.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize: str = "shortest"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(v > 0 for v in self.std):
            raise ValueError(f"expected mean and std of 3 channels, got {self.mean}, {self.std}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"expected bicubic or bilinear, got {self.interpolation!r}")
        if self.resize not in ("shortest", "squash"):
            raise ValueError(f"expected shortest or squash, got {self.resize!r}")

    def __call__(self, images_B3HW: Tensor) -> Tensor:
        """Resizes, crops and normalises.

        Args:
            images_B3HW: Floats in [0, 1].

        Returns:
            float32 [B, 3, size, size].
        """
        x, side = images_B3HW.float(), self.size
        height, width = x.shape[-2:]
        if (height, width) != (side, side):
            short = min(height, width)
            full = (side * height // short, side * width // short)
            to = full if self.resize == "shortest" else (side, side)
            x = F.interpolate(x, to, mode=self.interpolation, antialias=True, align_corners=False)
            top, left = round((to[0] - side) / 2), round((to[1] - side) / 2)
            # Cubics overshoot.
            x = x[..., top : top + side, left : left + side].clamp(0, 1)
        return (x - x.new_tensor(self.mean).view(3, 1, 1)) / x.new_tensor(self.std).view(3, 1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """An image tower and a text tower that share a space.

    Attributes:
        width: E, the size of the shared space.
        logit_scale: What cosines are multiplied by before a softmax.
        preprocess: How pixels reach the image tower.
        encode_images: Pixels [b, 3, size, size] -> [b, E].
        encode_texts: b texts -> [b, E].
        device: Where the weights are, and the features.
    """

    width: int
    logit_scale: float
    preprocess: Preprocess
    encode_images: Callable[[Tensor], Tensor]
    encode_texts: Callable[[list[str]], Tensor]
    device: str = "cpu"

    def image_features(self, images_B3HW: Tensor) -> Tensor:
        """Features of images, each of length 1.

        Args:
            images_B3HW: Floats in [0, 1], of any size.

        Returns:
            float32 [B, E].

        Raises:
            ValueError: the images have another shape, or are integers.
        """
        shape = list(images_B3HW.shape)
        if len(shape) != 4 or shape[1] != 3 or not images_B3HW.is_floating_point():
            raise ValueError(
                f"expected floats [B, 3, H, W] in [0, 1], got {images_B3HW.dtype} {shape}"
            )
        chunks = images_B3HW.split(_CHUNK) if shape[0] else ()
        return self._features(
            chunks, lambda chunk: self.encode_images(self.preprocess(chunk.to(self.device)))
        )

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, each of length 1; a text that is too long for the model is cut.

        Returns:
            float32 [B, E].
        """
        if isinstance(texts, str):
            raise ValueError(f"expected a list of texts, got the one text {texts!r}")
        chunks = [list(texts[at : at + _CHUNK]) for at in range(0, len(texts), _CHUNK)]
        return self._features(chunks, self.encode_texts)

    def _features(self, chunks: Iterable[Items], encode: Callable[[Items], Tensor]) -> Tensor:
        """Encodes chunk by chunk; [0, E] without any."""
        with torch.no_grad(), model_time():
            rows = [F.normalize(encode(chunk).float(), dim=-1) for chunk in chunks]
        return torch.cat(rows) if rows else torch.empty(0, self.width, device=self.device)


def load_clip(source: str, device: str = "cpu") -> Clip:
    """Reads a CLIP; the same source is read once for each device.

    Args:
        source: See the module's docstring.
        device: Where its weights go.

    Raises:
        FileNotFoundError: a file is missing; nothing is fetched.
        ValueError: the source is malformed, names an unknown architecture or pickled weights, or
            lacks what says how the pixels were scaled in training.
    """
    if not source.startswith(_OPEN_CLIP):
        folder = Path(source) if source else clip_folder()
        return _load_folder(expanded(folder).resolve(), device)
    architecture, at, path = source.removeprefix(_OPEN_CLIP).partition("@")
    if not (architecture and at and path):
        raise ValueError(
            f"expected {_OPEN_CLIP}<architecture>@<path of a .safetensors file>, got {source!r}"
        )
    return _load_open_clip(architecture, expanded(path).resolve(), device)


def clip_files(source: str) -> tuple[Path, ...]:
    """The weights of a source, for digests."""
    if source.startswith(_OPEN_CLIP):
        return (expanded(source.removeprefix(_OPEN_CLIP).partition("@")[2]).resolve(),)
    folder = expanded(source or clip_folder()).resolve()
    return tuple(sorted(folder.glob("*.safetensors")))


def check_source(source: str, base: Path | None, *, at: tuple[str, ...]) -> None:
    """Refuses a source whose files are not there, or one left empty on a base that the default does not suit.

    Args:
        source: See the module's docstring.
        base: The base's pipeline folder; ``None`` for one that was not loaded from any.
        at: Who looks through it, and the field to fill.

    Raises:
        UsageError: there is no model, or it is empty, and there is no ``clip`` folder with the
            default's weights in the base's.
    """
    if source:
        _check_there(source, at)
        return
    if base is not None and _sums(str(base / _OWN)) == _sums(""):
        return
    where = (
        "a base without a folder" if base is None else f"the base {base}, which has another or none"
    )
    example = f", such as {base / _OWN}" if base is not None and (base / _OWN).is_dir() else ""
    raise UsageError(
        f"expected the source of a CLIP, got none; the default is the miniature's, not for {where}: give "
        f"the folder of a transformers CLIPModel{example}, or open_clip:<architecture>@<path>",
        at=at,
    )


def _check_there(source: str, at: tuple[str, ...]) -> None:
    files = clip_files(source)
    try:
        for file in files:
            regular(file)
        if not source.startswith(_OPEN_CLIP):
            folder = expanded(source)
            if not (folder / "config.json").is_file():
                raise FileNotFoundError(_no_model(folder))
            regular(folder / "config.json")
            regular(folder / _HF_PREPROCESS)
            _tokenizer_folder(folder)
    except UsageError as error:
        raise error.below(*at) from error
    except FileNotFoundError as error:
        raise UsageError(str(error), at=at) from error
    if not files:
        raise UsageError(
            f"expected the folder of a transformers CLIPModel in safetensors, got {source}, which has none",
            at=at,
        )


def _no_model(folder: Path) -> str:
    return (
        f"expected the local folder of a transformers CLIPModel, got {folder}, which has no "
        "config.json; nothing is downloaded: fetch the model first"
    )


def _sums(source: str) -> list[str]:
    return [content(path) for path in clip_files(source)]


# --- transformers


@lru_cache(maxsize=4)
def _load_folder(folder: Path, device: str) -> Clip:
    from transformers import CLIPModel, CLIPTokenizer

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(_no_model(folder))
    if (kind := read_object(folder / "config.json").get("model_type")) != "clip":
        raise ValueError(f"{folder}: expected a model of type 'clip', got {kind!r}")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder}: expected weights in model.safetensors, got none; pickled weights "
            "(.bin, .pt) are not read: convert them"
        )
    tokenizer = all_regular(_tokenizer_folder(all_regular(folder)))
    words = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    with torch.random.fork_rng(devices=[]):  # a network is made with random weights, then filled
        network: Any = CLIPModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    network = network.to(device).eval().requires_grad_(False)
    length = min(words.model_max_length, network.config.text_config.max_position_embeddings)

    def encode_images(pixels: Tensor) -> Tensor:
        return network.get_image_features(pixel_values=pixels).pooler_output

    def encode_texts(texts: list[str]) -> Tensor:
        # Padded to a fixed length, so that a text's features do not depend on its neighbours. The
        # tower is causal and reads out at the end token: it needs no attention mask.
        ids = words(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )["input_ids"]
        return network.get_text_features(input_ids=ids.to(device)).pooler_output

    return Clip(
        width=network.config.projection_dim,
        logit_scale=network.logit_scale.exp().item(),
        preprocess=_folder_preprocess(folder, network.config.vision_config.image_size),
        encode_images=encode_images,
        encode_texts=encode_texts,
        device=device,
    )


def _tokenizer_folder(folder: Path) -> Path:
    places = (folder, folder.parent / "tokenizer")
    for place in places:
        if (place / "tokenizer.json").is_file() or (place / "vocab.json").is_file():
            return place
    raise FileNotFoundError(
        f"{folder}: expected tokenizer.json or vocab.json in {places[0]} or {places[1]}, got none"
    )


def _folder_preprocess(folder: Path, size: int) -> Preprocess:
    path = folder / _HF_PREPROCESS
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: expected {_HF_PREPROCESS} with image_mean and image_std, got none; they "
            "are not guessed, because a wrong guess changes every score"
        )
    given: dict[str, Any] = read_object(path)
    if not {"image_mean", "image_std"} <= given.keys():
        raise ValueError(f"{path}: expected image_mean and image_std, got {sorted(given)}")
    return Preprocess(size, tuple(given["image_mean"]), tuple(given["image_std"]))


# --- open_clip


@lru_cache(maxsize=4)
def _load_open_clip(architecture: str, weights: Path, device: str) -> Clip:
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
