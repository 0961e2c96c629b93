"""Makes one safetensors file of a checkpoint of the field: read, named as diffusers names it, looked at, written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from bench.core.errors import UsageError
from bench.core.files import expanded, is_folder
from bench.core.headers import refuse_odd_numbers, unreadable
from bench.core.json_files import read_object
from bench.core.weight_files import scan, sound
from methods.released.convert.compvis import diffusers_names, is_compvis
from methods.released.convert.deltas import as_adapter
from methods.released.convert.layout import plain_names
from methods.released.convert.raw import MEMORY, PICKLED, SECONDS, Raw, raw
from methods.released.files import PARTS, is_there, networks, weights_in
from methods.released.kinds import refuse_foreign

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Converted", "convert"]

_BY = "tvc-bench convert"
_LARGEST_SETTINGS = 2**18


@dataclass
class Converted:
    """The account of a conversion.

    Attributes:
        source: What was read.
        target: What was written.
        tensors: That it holds.
        size: Its bytes.
        sha256: Of its bytes: the `sha256` of a ``checkpoint``.
        flattened: Keys that were opened.
        stripped: Prefixes that were taken off.
        renamed: What was given other names, a phrase each.
        left_out: What was not taken, a phrase each.
    """

    source: str
    target: str
    tensors: int = 0
    size: int = 0
    sha256: str = ""
    flattened: list[str] = field(default_factory=list)
    stripped: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def convert(
    source: str,
    target: str,
    *,
    layers: int | None = None,
    seconds: int = SECONDS,
    memory: int = MEMORY,
) -> Converted:
    """Converts a file, or the UNet and the text encoder of a pipeline folder, into one file.

    Args:
        source: A pickle of tensors, safetensors, or a folder with ``unet`` or ``text_encoder``.
        target: A file that is not there yet, ``*.safetensors``.
        layers: Layers per block of the UNet; ``None``: as the names of the original Stable Diffusion tell.
        seconds: That reading one pickle may take.
        memory: Bytes that it may take, beside twice its own.

    Raises:
        UsageError: the source is not what was expected, or could not be evaluated as it is; or the
            target is there.
    """
    made = _new(target)
    told = Converted(source, target)
    with TemporaryDirectory(dir=made.parent, prefix=".tvc-bench-convert-") as room:
        values: dict[str, tuple[Path, str]] = {}
        metadata: dict[str, str] = {}
        for number, (part, file) in enumerate(_files(source)):
            place = Path(room) / str(number)
            place.mkdir()
            found = raw(file, place, seconds=seconds, memory=memory)
            metadata |= {**found.metadata, **_settings(file)}
            prefix = f"{part}." if part else ""
            names = _named(found, told, layers, file)
            values |= {f"{prefix}{name}": (found.file, old) for name, old in names.items()}
        written = Path(room) / made.name
        _write(values, written, {**metadata, "format": "pt", "converted_by": _BY})
        _look_at(written, source)
        told.tensors, told.size = len(values), written.stat().st_size
        told.sha256 = scan(written).sha256
        _publish(written, made)
    return told


def _new(target: str) -> Path:
    made = expanded(target)
    if made.suffix != ".safetensors":
        raise UsageError(f"expected a name that ends with .safetensors, got {target}; add it")
    _not_there(made, is_there(target))
    if not is_folder(made.parent):
        raise UsageError(f"expected a folder to write to, got {made.parent}; make it first")
    return made


def _not_there(made: Path, there: bool) -> None:
    if there:
        raise UsageError(
            f"expected a new file, got {made}, which is there; remove it or give another name"
        )


def _files(source: str) -> Iterator[tuple[str, Path]]:
    """The files to read, each with its network; under "" where the names must tell."""
    where = expanded(source)
    if not is_folder(where):
        yield "", where
        return
    parts = [part for part in PARTS if is_folder(where / part)]
    for part in parts or [""]:
        folder = where / part
        plain = [p for p in sorted(folder.iterdir()) if p.suffix in PICKLED and p.is_file()]
        files = weights_in(folder) or [p for p in plain if ".fp16." not in p.name] or plain
        if not files:
            raise UsageError(
                f"expected weights in {folder}, got none; give the folder of a diffusers pipeline, "
                "or a file"
            )
        yield from ((part, file) for file in files)


def _settings(file: Path) -> dict[str, str]:
    """Settings beside an adapter, as metadata: PEFT's, without which it would have another strength; Receler's."""
    erasers = file.with_name("eraser_config.json")
    if file.stem == "eraser_weights" and is_there(str(erasers)):
        about = read_object(erasers, _LARGEST_SETTINGS)
        return {key: str(about[key]) for key in ("eraser_type", "eraser_rank") if key in about}
    beside = file.with_name("adapter_config.json")
    if file.stem != "adapter_model" or not is_there(str(beside)):
        return {}
    return {"lora_adapter_metadata": json.dumps(read_object(beside, _LARGEST_SETTINGS))}


def _named(found: Raw, told: Converted, layers: int | None, file: Path) -> dict[str, str]:
    """The old name of each new one; what was done is told."""
    plain = plain_names(found.paths, file)
    told.flattened += plain.flattened
    told.stripped += plain.stripped
    told.left_out += [*found.left_out, *plain.left_out]
    names = plain.old
    if any(map(is_compvis, names)):
        names, lost = diffusers_names(names, layers, file)
        told.renamed.append(f"{len(names)} names of the original Stable Diffusion to diffusers'")
        if lost:
            more = f" and {len(lost) - 1} more" if lost[1:] else ""
            told.left_out.append(f"{lost[0]}{more}, which no edit changes")
    names, count = as_adapter(names, file)
    if count:
        told.renamed.append(f"{count} compressed matrices to the halves of a LoRA")
    return names


def _write(values: dict[str, tuple[Path, str]], path: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    opened: dict[Path, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, (file, old) in values.items():
        try:
            if file not in opened:
                opened[file] = safe_open(file, framework="pt")
            tensors[name] = opened[file].get_tensor(old)
        except SafetensorError as error:
            raise unreadable(file, f"{error}; fetch it again") from error
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise UsageError(f"expected room for a file beside {path.parent}, got: {error}") from error


def _look_at(path: Path, source: str) -> None:
    """Refuses what no ``checkpoint`` could read: another adapter, numbers that are not finite."""
    with _of(path, source):
        sound(path)
    for network in networks({"": [path]}, source):
        refuse_foreign(network, None)
        refuse_odd_numbers(network.tensors, source)


@contextmanager
def _of(path: Path, source: str) -> Iterator[None]:
    """Says of the source what was found in the file that was made of it."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).replace(str(path), source)) from error


def _publish(written: Path, made: Path) -> None:
    """Gives the file its name, unless another has it by now; readable as any new file is."""
    mode = written.with_name("mode")
    mode.touch()
    written.chmod(mode.stat().st_mode)
    try:
        os.link(written, made)
    except FileExistsError:
        _not_there(made, there=True)
    except OSError:  # a file system without links
        _not_there(made, made.exists())
        written.rename(made)
