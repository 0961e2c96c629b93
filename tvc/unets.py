"""Task vectors of UNets that somebody fine-tuned with a script of their own.

``with`` is a UNet that learnt images of the concept. ``without``, if given, learnt images of the same
scenes without it; it stands in the base's place. A path is a safetensors file of a UNet, or a folder that
diffusers' ``save_pretrained`` wrote, of a UNet or of a whole pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError, safe_open

from bench.core.errors import UsageError
from bench.core.files import regular
from bench.core.weight_files import sound
from bench.interfaces import Role
from bench.model.pipeline.weights import find_weights
from bench.model.text_to_image import TextToImage
from tvc.task_vector import TaskVector

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_unet", "unet_files", "vector_between"]

_PART: Final = "unet"
_STEM: Final = "diffusion_pytorch_model"
_NAME: Final = f"{_STEM}.safetensors"
_INDEX: Final = f"{_NAME}.index.json"


def unet_files(path: Path) -> tuple[Path, ...]:
    """The safetensors files that hold the UNet at ``path``.

    Raises:
        UsageError: there is none.
    """
    if path.is_file():
        return (path,)
    for folder in (path / _PART, path):
        if (folder / _NAME).is_file():
            return (folder / _NAME,)
        if (folder / _INDEX).is_file():
            return _parts(folder)
    raise UsageError(
        f"{path}: expected a safetensors file of a UNet, or a folder with {_NAME}; convert a pickle first: "
        "tvc-bench convert"
    )


def check_unet(path: Path, base: Path | None) -> None:
    """Refuses what is no whole UNet of finite numbers, of a base's shape, before anything is computed.

    Args:
        path: See the module.
        base: The base's pipeline folder; ``None`` for one that was not loaded from any.

    Raises:
        UsageError: in one line.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in unet_files(path):
        if regular(file).suffix != ".safetensors":
            raise UsageError(f"{file}: expected a .safetensors file; convert it: tvc-bench convert")
        found |= {name: info.shape for name, info in sound(file).items()}
    if base is not None and (base / _PART).is_dir():
        known = find_weights(base / _PART, _STEM).tensors
        _names(path, found, {f"{_PART}.{name}": info.shape for name, info in known.items()})


def vector_between(model: TextToImage, with_: Path, without: Path | None) -> TaskVector:
    """The difference of two fine-tuned UNets, or of one and the base, over all parameters that differ.

    Raises:
        UsageError: a file cannot be read, or is no UNet of this base's shape.
        ValueError: a value is not finite, or nothing differs.
    """
    base = {name: model.base_values[name] for name in model.having(Role.DENOISER)}
    first = _values(with_, base)
    second = _values(without, base) if without is not None else base
    deltas = {}
    for name, value in first.items():
        delta = (value.double() - second[name].cpu().double()).float()
        if bool(delta.any()):
            deltas[name] = delta
    if not deltas:
        against = f"{without}" if without is not None else "the base"
        raise ValueError(f"{with_}: expected a fine-tuned UNet, got the values of {against}")
    return TaskVector(model.base_digest, deltas)


def _parts(folder: Path) -> tuple[Path, ...]:
    try:
        index = json.loads(regular(folder / _INDEX).read_text())["weight_map"]
        names = sorted({str(name) for name in index.values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{folder / _INDEX}: not a readable index of weights ({error})") from error
    if any("/" in name or "\\" in name for name in names):
        raise UsageError(f"{folder / _INDEX}: expected names of files beside it, got a path")
    return tuple(folder / name for name in names)


def _values(path: Path, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(_tensors(path))
    shapes, known = ({n: tuple(v.shape) for n, v in these.items()} for these in (found, base))
    names = _names(path, shapes, known)
    return {names[name]: value for name, value in found.items()}


def _names(
    path: Path, given: Mapping[str, tuple[int, ...]], base: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """The base's name of each tensor, by the one that a file has.

    Raises:
        UsageError: the shapes are not those of the base's UNet.
    """
    found = {name: name if name.startswith(f"{_PART}.") else f"{_PART}.{name}" for name in given}
    for name, full in found.items():
        if full not in base or base[full] != given[name]:
            expected = base.get(full, "no such parameter")
            raise UsageError(
                f"{path}: {name} has the shape {given[name]}, the base has {expected}; expected a UNet that "
                "was fine-tuned from this base"
            )
    if missing := sorted(base.keys() - set(found.values())):
        raise UsageError(
            f"{path}: {len(missing)} of the UNet's {len(base)} parameters are missing, e.g. {missing[0]}; expected a "
            "whole UNet"
        )
    return found


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    for file in unet_files(path):
        try:
            with safe_open(regular(file), framework="pt") as opened:
                for name in opened.keys():
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{file}: not a readable safetensors file ({error})") from error
