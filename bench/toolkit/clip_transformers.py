"""A CLIP from the folder of a transformers ``CLIPModel``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UsageError, in_one_line
from bench.core.files import all_regular
from bench.core.json_files import read_object
from bench.core.kept import kept_while_same
from bench.toolkit.clip_towers import Clip, Preprocess
from bench.toolkit.network_folder import PREPROCESS, filled, used_files, word_files

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PREPROCESS", "folder_files", "load_folder", "no_model", "tokenizer_folder"]


def no_model(folder: Path) -> str:
    """Says that a folder holds no CLIP."""
    return (
        f"expected the local folder of a transformers CLIPModel, got {folder}, which has no "
        "config.json; nothing is downloaded: fetch the model first"
    )


def folder_files(folder: Path) -> tuple[Path, ...]:
    """The files that are read of a folder, and of the one of its tokenizer where that lies beside it."""
    try:
        beside = tokenizer_folder(folder)
    except FileNotFoundError:
        return used_files(folder)  # whoever loads it says so
    return used_files(folder) + (word_files(beside) if beside != folder else ())


@kept_while_same(lambda folder, device: folder_files(folder), most=4)
def load_folder(folder: Path, device: str) -> Clip:
    """The CLIP of a folder; see :func:`bench.toolkit.clip.load_clip` for the errors."""
    from transformers import CLIPTokenizer

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(no_model(folder))
    if (kind := read_object(folder / "config.json").get("model_type")) != "clip":
        raise ValueError(f"{folder}: expected a model of type 'clip', got {kind!r}")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder}: expected weights in model.safetensors, got none; pickled weights "
            "(.bin, .pt) are not read: convert them"
        )
    tokenizer = all_regular(tokenizer_folder(all_regular(folder)))
    try:
        words = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except Exception as error:  # its kinds change with each version of transformers
        raise UsageError(f"{tokenizer}: expected a tokenizer, got {in_one_line(error)}") from error
    network = filled(folder, "CLIPModel")
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


def tokenizer_folder(folder: Path) -> Path:
    """The folder of its tokenizer: its own, or the one beside it in a pipeline.

    Raises:
        FileNotFoundError: neither has one.
    """
    places = (folder, folder.parent / "tokenizer")
    for place in places:
        if (place / "tokenizer.json").is_file() or (place / "vocab.json").is_file():
            return place
    raise FileNotFoundError(
        f"{folder}: expected tokenizer.json or vocab.json in {places[0]} or {places[1]}, got none"
    )


def _folder_preprocess(folder: Path, size: int) -> Preprocess:
    path = folder / PREPROCESS
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: expected {PREPROCESS} with image_mean and image_std, got none; they "
            "are not guessed, because a wrong guess changes every score"
        )
    given: dict[str, Any] = read_object(path)
    if not {"image_mean", "image_std"} <= given.keys():
        raise ValueError(f"{path}: expected image_mean and image_std, got {sorted(given)}")
    return Preprocess(size, tuple(given["image_mean"]), tuple(given["image_std"]))
