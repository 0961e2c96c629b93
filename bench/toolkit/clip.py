"""CLIP models from local files, for judges and metrics; nothing is downloaded, nothing unpickled.

A source is one of

* the path of a folder that holds a transformers ``CLIPModel``: ``config.json``, safetensors weights
  and ``preprocessor_config.json``. The tokenizer lies in the same folder or, as in a folder of a
  Stable Diffusion pipeline, in the one beside it, ``../tokenizer``.
* ``open_clip:<architecture>@<path of a .safetensors file>``. OpenAI's own weights were trained with
  another activation function: they need an architecture whose name ends in ``-quickgelu``.
* the empty string: the miniature's CLIP, for the miniature. :func:`check_source` refuses it on a base
  that does not bring the same one along, because it would see nothing in other models' images.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.core.errors import UsageError, in_one_line
from bench.core.files import expanded, regular
from bench.core.shipped import clip_folder, folder_of
from bench.core.spec import content
from bench.toolkit.clip_open import load_open_clip, open_clip_files
from bench.toolkit.clip_towers import Clip
from bench.toolkit.clip_transformers import (
    PREPROCESS,
    folder_files,
    load_folder,
    no_model,
    tokenizer_folder,
)
from bench.toolkit.network_folder import check_files

__all__ = ["brings_default", "check_source", "clip_files", "load_clip"]

_OWN = "clip"  # beside a base's networks
_OPEN_CLIP = "open_clip:"


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
        return load_folder(folder_of(source, ours=clip_folder()), device)
    architecture, at, path = source.removeprefix(_OPEN_CLIP).partition("@")
    if not (architecture and at and path):
        raise ValueError(
            f"expected {_OPEN_CLIP}<architecture>@<path of a .safetensors file>, got {source!r}"
        )
    return load_open_clip(architecture, expanded(path).resolve(), device)


def clip_files(source: str) -> tuple[Path, ...]:
    """The files that decide what a CLIP says, for digests: weights, settings, and its tokenizer's.

    Of the default the weights alone: its settings come with the code, and stored results name no more.
    """
    if source.startswith(_OPEN_CLIP):
        return open_clip_files(_weights_file(source))
    files = folder_files(folder_of(source, ours=clip_folder()))
    return files if source else tuple(_weights(files))


def brings_default(base: Path | None) -> bool:
    """Whether a base has the miniature's CLIP beside its networks, as every miniature has.

    What looks through the miniature's networks, left to its default, sees nothing in other bases' images.
    """
    return base is not None and _sums(str(base / _OWN)) == _sums("")


def check_source(source: str, base: Path | None, *, at: tuple[str, ...]) -> None:
    """Refuses a source that holds no CLIP, or one left empty on a base that the default does not suit.

    Args:
        source: See the module's docstring.
        base: The base's pipeline folder; ``None`` for one that was not loaded from any.
        at: Who looks through it, and the field to fill.

    Raises:
        UsageError: there is no model, it cannot be read, or it is empty, and there is no ``clip``
            folder with the default's weights in the base's.
    """
    if source:
        _check_there(source, at)
        return
    if brings_default(base):
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
    """It is read in the end, for only that tells whether the files are of one CLIP."""
    files = clip_files(source)
    try:
        if not source.startswith(_OPEN_CLIP):
            _check_folder(expanded(source))
        check_files(files)
        if not _weights(files):
            raise UsageError(
                f"expected the folder of a transformers CLIPModel in safetensors, got {source}, which has none"
            )
        load_clip(source)
    except UsageError as error:
        raise error.below(*at) from error
    except (OSError, ValueError) as error:
        raise UsageError(in_one_line(error), at=at) from error


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UsageError(no_model(folder))
    regular(folder / "config.json")
    regular(folder / PREPROCESS)
    try:
        tokenizer_folder(folder)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error


def _sums(source: str) -> list[str]:
    return [content(path) for path in _weights(clip_files(source))]


def _weights(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if file.suffix == ".safetensors"]


def _weights_file(source: str) -> Path:
    """The file that a source of open_clip names."""
    return expanded(source.removeprefix(_OPEN_CLIP).partition("@")[2]).resolve()
