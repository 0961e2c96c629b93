"""The tensors of a file before anything is named: of a pickle by way of a confined process, of safetensors as such."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.core.errors import UsageError, shown
from bench.core.files import regular
from bench.core.headers import read_header

__all__ = ["MEMORY", "PICKLED", "SECONDS", "Raw", "raw"]

PICKLED: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
SECONDS: Final = 900
"""That reading a pickle may take."""
MEMORY: Final = 4 * 2**30
"""Bytes that reading may take beside twice the file's own."""

_CHILD: Final = Path(__file__).with_name("child.py")
_TRUST: Final = (
    "if you trust it, load it with its authors' code, save the state_dict() of its unet or "
    "text_encoder, and convert that"
)
_MODULES: Final = (
    "torch.nn.", "diffusers.", "transformers.", "ldm.", "__main__.", "peft.", "accelerate.",
)  # fmt: skip


@dataclass(frozen=True)
class Raw:
    """The tensors of one file.

    Attributes:
        file: Safetensors.
        paths: Of each name in that file, the keys that led to the tensor.
        left_out: What is no tensor of real numbers, as ``name (kind)``.
        metadata: Of safetensors.
    """

    file: Path
    paths: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def raw(path: Path, room: Path, *, seconds: int = SECONDS, memory: int = MEMORY) -> Raw:
    """Reads a file, whatever of the two kinds it is.

    Args:
        path: A pickle of tensors, or safetensors.
        room: An empty folder for what is made of it.
        seconds: That a pickle may take.
        memory: Bytes that a pickle may take, beside twice its own.

    Raises:
        UsageError: it is neither, or a pickle that holds more than tensors.
    """
    where = regular(path)
    if where.suffix == ".safetensors":
        header = read_header(where)
        return Raw(where, {name: (name,) for name in header.tensors}, (), header.metadata)
    if where.suffix not in PICKLED:
        raise UsageError(
            f"expected a file that ends with .safetensors, {', '.join(sorted(PICKLED))}, got {path}; "
            "give the weights"
        )
    made = room / "raw.safetensors"
    told = _told(where, made, seconds=seconds, memory=memory + 2 * where.stat().st_size)
    if "error" in told:
        raise _refusal(path, str(told["error"]))
    paths = {str(i): tuple(map(str, keys)) for i, keys in enumerate(told["paths"])}
    return Raw(made, paths, tuple(map(str, told["left"])))


def _told(source: Path, made: Path, *, seconds: int, memory: int) -> dict[str, Any]:
    """The words of the child about a file."""
    # -P: the script's folder is no place to import from. -B: it writes nothing but its one file.
    words = [sys.executable, "-P", "-B", str(_CHILD), str(source.resolve()), str(made)]
    words += [str(memory), str(seconds)]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise _too_long(source, seconds) from error
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _too_long(source, seconds)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        told = None
    if done.returncode or not isinstance(told, dict):
        raise UsageError(
            f"expected a pickle of tensors, got {source}: the process that read it ended with "
            f"{done.returncode}; fetch it again"
        )
    return told


def _too_long(source: Path, seconds: int) -> UsageError:
    return UsageError(
        f"expected a pickle that can be read in {seconds} s, got {source}, which takes longer; "
        "fetch it again"
    )


def _refusal(path: Path, told: str) -> UsageError:
    kind, _, what = told.partition(" ")
    match kind:
        case "class" if what.startswith(_MODULES):
            why = f"a whole module, of the class {what}, which its own code would have to build"
            return UsageError(f"expected a pickle of tensors, got {path}: {why}; {_TRUST}")
        case "class":
            why = f"it names {shown(what)}, and to read that is to run code"
            return UsageError(f"expected a pickle of tensors, got {path}: {why}; {_TRUST}")
        case "memory":
            why = "it needs more memory than a file of its size should; fetch it again"
        case "place":
            return UsageError(
                f"expected room for the tensors of {path} beside the file to write, got: {what}; free some"
            )
        case "why":
            why = f"{what}; give the file of a state dict"
        case _:
            why = f"torch cannot read it ({what}); fetch it again, or have it saved by torch.save"
    return UsageError(f"expected a pickle of tensors, got {path}: {why}")
