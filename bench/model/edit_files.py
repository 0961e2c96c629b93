"""An edit in a folder: ``weights.safetensors`` and ``edit.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from bench.core.digest import digest_of
from bench.core.files import regular
from bench.core.lazy import torch
from bench.model.filters import Filter
from bench.model.guidance import Guidance

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Edit", "tensor_digest"]

_EDIT = "edit.json"
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, eq=False)
class Edit:
    """The filled slots of a model.

    Attributes:
        base: Digest of the base that it belongs to.
        weights: ``component.name`` -> value.
        guidance: How text branches are combined.
        filters: Refuse prompts or blank images.
    """

    base: str
    weights: Mapping[str, Tensor]
    guidance: Guidance
    filters: tuple[Filter, ...]

    @property
    def digest(self) -> str:
        """sha256 of the base's digest and the edit's values, 64 hexadecimal digits."""
        sums = {name: tensor_digest(value) for name, value in self.weights.items()}
        return digest_of({**self._json(), "weights": sums})

    def _json(self) -> dict[str, Any]:
        return {
            "base": self.base,
            "guidance": self.guidance.identity(),
            "filters": [f.identity() for f in self.filters],
        }

    def write(self, folder: Path) -> None:
        """Writes the two files into a folder."""
        from safetensors.torch import save_file

        tensors = {n: w.detach().cpu().contiguous() for n, w in self.weights.items()}
        save_file(tensors, folder / _WEIGHTS, metadata={"base": self.base})
        (folder / _EDIT).write_text(json.dumps(self._json(), indent=1))

    @classmethod
    def read(cls, folder: Path, base: str) -> Edit:
        """The edit of a base that :meth:`write` left in a folder.

        Raises:
            UsageError: one of the files is not there, or no regular file.
            ValueError: the edit belongs to another base, or its parts are not known here.
        """
        about = json.loads(regular(folder / _EDIT).read_text())
        if about["base"] != base:
            raise ValueError(
                f"{folder}: an edit of base {about['base'][:12]}, but this base is {base[:12]}; "
                "load the base it was made from"
            )
        with safe_open(regular(folder / _WEIGHTS), framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}
        filters = tuple(Filter.from_identity(f) for f in about["filters"])
        return cls(base, weights, Guidance.from_identity(about["guidance"]), filters)


def tensor_digest(value: Tensor) -> str:
    """sha256 of a tensor's bytes, row-major; shape and type are not in it."""
    # Flat first: a kernel of one pixel can count as contiguous and still lie channels last.
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()
