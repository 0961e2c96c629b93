"""The folder of a network that transformers reads: at a path, or in a repository of the hub at a commit.

A source is the path of a folder with ``config.json`` and safetensors, or ``owner/name@<commit of 40 hex
digits>``. Of a repository only the files that are used are downloaded, and what is in the hub's cache
needs no network. Nothing is unpickled, and no code of a repository is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.core.clock import model_time
from bench.core.digest import JSON
from bench.core.errors import UsageError, in_one_line, shown
from bench.core.files import expanded, regular
from bench.core.headers import LFS_BEGINNING
from bench.core.json_files import read_object
from bench.core.kept import kept_while_same
from bench.core.lazy import torch
from bench.core.weight_files import sound
from bench.model.pipeline.download import fetch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CONFIG", "PREPROCESS", "Loaded", "check_files", "check_folder", "filled", "folder_of", "load",
    "used_files", "word_files",
]  # fmt: skip

CONFIG: Final = "config.json"
PREPROCESS: Final = "preprocessor_config.json"
_INDEX: Final = "model.safetensors.index.json"
_WHOLE: Final = "model.safetensors"
_WORDS: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip
_SETTINGS: Final = (CONFIG, PREPROCESS, "processor_config.json", "generation_config.json", *_WORDS)
_HUB: Final = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96})@([0-9a-f]{40})", re.ASCII)
_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}(@.*)?", re.ASCII)
_CHUNK: Final = 32


def folder_of(source: str) -> Path:
    """The folder of a source; a repository's is in the hub's cache, and is filled if need be.

    Raises:
        UsageError: a repository without its commit, or one that could not be downloaded.
    """
    if found := _HUB.fullmatch(source):
        return _fetched(found[1], found[2])
    folder = expanded(source)
    if not folder.is_dir() and _ID.fullmatch(source):
        raise UsageError(
            f"expected a folder, or owner/name@<commit of 40 hex digits>, got {shown(source)}; the "
            "page of a repository lists its commits under `Files`, `History`"
        )
    return folder.resolve()


def used_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that decide what its network says: settings, words and weights."""
    names = _SETTINGS if (folder / _WHOLE).is_file() else (*_SETTINGS, _INDEX)
    settings = [folder / name for name in names if (folder / name).is_file()]
    return (*settings, *_weights(folder))


def word_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that decide how its tokenizer splits texts."""
    return tuple(folder / name for name in _WORDS if (folder / name).is_file())


def check_folder(
    source: str, kind: str, *, needed: Sequence[str] = (PREPROCESS,)
) -> Mapping[str, JSON]:
    """Refuses a folder that holds no such network in safetensors; returns its ``config.json``.

    Args:
        source: See the module.
        kind: The end of the name of its class, such as ``ForImageClassification``.
        needed: Files that it must hold besides.

    Raises:
        UsageError: in one line, with what is missing or unfit.
    """
    folder = folder_of(source)
    if not folder.is_dir():
        raise UsageError(f"expected the folder of a network, got {source}, which is none")
    for name in (CONFIG, *needed):
        if not (folder / name).is_file():
            raise UsageError(
                f"{source}: expected {name}, got none; give a folder as `save_pretrained` writes it"
            )
    config = read_object(folder / CONFIG)
    classes = config.get("architectures")
    if isinstance(classes, list) and not any(str(c).endswith(kind) for c in classes):
        raise UsageError(f"{source}: expected a network {kind}, got {shown(classes)}")
    if not _weights(folder):
        raise UsageError(
            f"{source}: expected weights in {_WHOLE}, got none; pickled weights (.bin, .pt) are not "
            "read: convert them"
        )
    check_files(used_files(folder))
    return config


def check_files(files: Iterable[Path]) -> None:
    """Refuses files that no network can be read from: they are cut off, or pointers to what was not fetched.

    Raises:
        UsageError: in one line, with the file.
    """
    for file in files:
        sound(regular(file))
        if file.suffix == ".json":
            read_object(file)
        elif file.suffix == ".txt" and file.read_bytes().startswith(LFS_BEGINNING):
            raise UsageError(
                f"{file}: expected a file, got a pointer of Git LFS; run `git lfs pull` there"
            )


class Loaded:
    """A network with what prepares images for it.

    Args:
        network: In evaluation mode, without gradients.
        processor: The image processor of its folder; ``None`` where nobody asked for it.
        words: The tokenizer of its folder; ``None`` where nobody asked for it.
        device: Where the network is.
    """

    def __init__(self, network: Any, processor: Any, words: Any, device: str) -> None:
        self.network, self.processor, self.words, self.device = network, processor, words, device

    def pixels(self, images_B3HW: Tensor) -> Tensor:
        """The images as the processor of the network's folder prepares image files.

        Args:
            images_B3HW: Floats in [0, 1].

        Returns:
            float32 [B, 3, h, w] on the network's device.
        """
        bytes_BHW3 = (images_B3HW.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu()
        made = self.processor(
            images=[image.numpy() for image in bytes_BHW3],
            input_data_format="channels_last",
            return_tensors="pt",
        )
        return made["pixel_values"].to(self.device)

    def each(self, images_B3HW: Tensor, look: Any) -> list[Tensor]:
        """The answers of ``look`` to the prepared pixels, chunk after chunk, on the images' device.

        Args:
            images_B3HW: Floats in [0, 1].
            look: Pixels [b, 3, h, w] -> [b, ...].

        Raises:
            ValueError: the images have another shape.
        """
        if images_B3HW.ndim != 4 or images_B3HW.shape[1] != 3:
            raise ValueError(f"expected images [B, 3, H, W], got {list(images_B3HW.shape)}")
        found = []
        for chunk in images_B3HW.split(_CHUNK) if len(images_B3HW) else ():
            pixels = self.pixels(chunk)
            with torch.no_grad(), model_time():
                found.append(look(pixels).float().to(images_B3HW.device))
        return found


@kept_while_same(lambda folder, *how, **more: used_files(folder), most=8)
def load(folder: Path, kind: str, device: str, *, words: bool = False) -> Loaded:
    """The network of a folder, read once per device.

    Args:
        folder: Its own.
        kind: Its class in transformers, such as ``AutoModelForImageClassification``.
        device: Where its weights go.
        words: Whether it reads texts too.

    Raises:
        UsageError: in one line: the weights are not those of the configuration.
    """
    import transformers

    network = filled(folder, kind)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        tokenizer = (
            transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if words
            else None
        )
    except Exception as error:  # its kinds change with each version of transformers
        raise UsageError(f"{folder}: expected a network, got {in_one_line(error)}") from error
    return Loaded(network.to(device).eval().requires_grad_(False), processor, tokenizer, device)


def filled(folder: Path, kind: str) -> Any:
    """The network of a folder, every layer with weights of its files.

    Args:
        folder: Its own.
        kind: Its class in transformers.

    Raises:
        UsageError: in one line: the weights are not those of the configuration.
    """
    import transformers

    try:
        with torch.random.fork_rng(devices=[]):  # it is made with random weights, then filled
            network, told = getattr(transformers, kind).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # its kinds change with each version of transformers
        raise UsageError(f"{folder}: expected a network, got {in_one_line(error)}") from error
    if lacking := sorted(told["missing_keys"]):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UsageError(
            f"{folder}: expected weights of every layer, got none of {lacking[0]}{more}; give the "
            "whole network"
        )
    return network


def _weights(folder: Path) -> list[Path]:
    """The files of weights that transformers reads in a folder."""
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    if not (folder / _INDEX).is_file():
        return []
    places = read_object(folder / _INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
        raise UsageError(f"{folder / _INDEX}: expected a weight_map of names, got another value")
    names = sorted({str(place) for place in places.values()})
    if odd := [name for name in names if Path(name).name != name]:
        raise UsageError(f"{folder / _INDEX}: expected names of files, got {shown(odd[0])}")
    return [folder / name for name in names]


@cache
def _fetched(hub: str, commit: str) -> Path:
    try:
        folder = fetch(hub, commit, {*_SETTINGS, _WHOLE, _INDEX})
        if not (folder / _WHOLE).is_file() and (folder / _INDEX).is_file():
            fetch(hub, commit, {file.name for file in _weights(folder)})
    except UsageError:
        raise
    except Exception as error:  # of the hub, of HTTP, of sockets: its kinds changed with versions
        raise UsageError(f"{hub}: could not be downloaded: {in_one_line(error)}") from error
    return folder
