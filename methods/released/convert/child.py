"""Reads a pickle of tensors in a process of its own: the one place in the project where anything is unpickled.

It is a script, ``python child.py IN OUT MEMORY SECONDS``, and imports nothing of the project. It reads with
``weights_only=True``: torch then builds tensors and plain containers, and refuses every other class, so that
no code of the file runs. There is no other way in here. Before a byte of the file is read, the
process gives up what it will not need. It can open no further file or connection, and its memory,
its time and the size of what it writes are bounded. So a flaw in torch's reader has little to work
with.

``OUT`` becomes safetensors whose names are numbers. What they stand for, and what was left out, is printed
as JSON; the parent gives the names.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
}  # fmt: skip
_MOST = 20_000
_DEPTH = 6
_NAME = 500
_LEFT = 20
_GLOBAL = re.compile(r"GLOBAL ([\w.]{1,200})")

Found = list[tuple[list[str], torch.Tensor]]


def confine(memory: int, seconds: int) -> None:
    """Gives up what reading a file that is open already does not need; there is no way back.

    Args:
        memory: Bytes that may be taken from now on, and that may be written.
        seconds: Of processor time.
    """
    for kind, most in (
        (resource.RLIMIT_AS, _taken() + memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, memory),
        (resource.RLIMIT_CORE, 0),
        # No further descriptor: no file, no connection, and no program, whose libraries are files.
        (resource.RLIMIT_NOFILE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))


def _taken() -> int:
    """Bytes of addresses that the process has: torch's libraries alone are some gigabytes."""
    pages = Path("/proc/self/statm")
    if not pages.exists():  # not Linux, where this limit holds nothing
        return 2**40
    return int(pages.read_text().split()[0]) * resource.getpagesize()


def warm_up() -> None:
    """Has torch import all that its readers need, of both formats, while files can be opened."""
    for zipped in (True, False):
        own = io.BytesIO()
        value = {"a": torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16)), "b": 1}
        torch.save(value, own, _use_new_zipfile_serialization=zipped)  # noqa: TID251 (our own zeros)
        own.seek(0)
        torch.load(own, map_location="cpu", weights_only=True)  # noqa: TID251 (what was just made)


def tensors_in(value: object) -> tuple[Found, list[str]]:
    """The tensors in nested mappings with the keys that lead to each, and what else there is.

    Raises:
        ValueError: there is no mapping, or one nests too deeply or holds too much.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"it holds one {type(value).__name__}, and no parameters by name")
    found: Found = []
    left: list[str] = []
    _walk(value, [], found, left)
    more = [f"and {len(left) - _LEFT} more"] if len(left) > _LEFT else []
    return found, left[:_LEFT] + more


def _walk(value: Mapping[Any, Any], at: list[str], found: Found, left: list[str]) -> None:
    if len(at) >= _DEPTH:
        raise ValueError(f"its mappings nest more than {_DEPTH} deep")
    for key, item in value.items():
        path = [*at, str(key)]
        if len(path[-1]) > _NAME:
            raise ValueError(f"a name has {len(path[-1])} characters, where {_NAME} are allowed")
        if isinstance(item, Mapping):
            _walk(item, path, found, left)
        elif isinstance(item, torch.Tensor) and item.dtype in _DTYPES and _is_plain(item):
            found.append((path, item.detach()))
        else:
            kind = str(item.dtype) if isinstance(item, torch.Tensor) else type(item).__name__
            left.append(f"{'.'.join(path)} ({kind.removeprefix('torch.')})")
        if len(found) > _MOST:
            raise ValueError(f"it holds more than the {_MOST} tensors allowed")


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and tensor.device.type == "cpu"


def write(file: BinaryIO, tensors: list[torch.Tensor]) -> None:
    """Writes safetensors, one value at a time: the values are in memory once already."""
    header: dict[str, Any] = {}
    place = 0
    for number, tensor in enumerate(tensors):
        end = place + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[str(number)] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": shape,
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors:
        values = tensor.contiguous().reshape(-1)
        if values.numel():
            file.write(values.view(torch.uint8).numpy().data)
    file.flush()


def reason(error: BaseException) -> str:
    """Why a file cannot be read, in a few words."""
    said = str(error)
    if isinstance(error, MemoryError) or "not enough memory" in said or "alloc" in said.lower():
        return "memory"
    if named := _GLOBAL.search(said):
        return f"class {named[1]}"
    if isinstance(error, OSError):
        return f"place {error.strerror}"
    if isinstance(error, ValueError):
        return f"why {said}"
    return f"unreadable {type(error).__name__}"


def main(source: str, target: str, memory: int, seconds: int) -> None:
    """Reads one file and writes another; prints what was found, or why nothing was."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    warm_up()
    with Path(source).open("rb") as given, Path(target).open("xb") as made:
        confine(memory, seconds)
        try:
            value = torch.load(given, map_location="cpu", weights_only=True)  # noqa: TID251 (see above)
            found, left = tensors_in(value)
            size = sum(tensor.numel() * tensor.element_size() for _, tensor in found)
            if size > memory:
                raise MemoryError
            write(made, [tensor for _, tensor in found])
            told: dict[str, Any] = {"paths": [path for path, _ in found], "left": left}
        except Exception as error:  # whatever torch makes of such a file: the parent says it
            told = {"error": reason(error)}
        sys.stdout.write(json.dumps(told))
        sys.stdout.flush()
        os._exit(0)  # no tidying up of what the file made


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
