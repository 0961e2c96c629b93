"""An edit in a folder: ``weights.safetensors`` and ``edit.json``; ``hooks.safetensors`` where it has hooks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from bench.core.digest import digest_of
from bench.core.files import regular
from bench.core.lazy import torch
from bench.model.filters import Filter
from bench.model.guidance import Guidance
from bench.model.hooks import Fitted, Hook

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Edit", "read_hooks", "tensor_digest"]

_EDIT = "edit.json"
_WEIGHTS = "weights.safetensors"
_HOOKS = "hooks.safetensors"


@dataclass(frozen=True, eq=False)
class Edit:
    """The filled slots of a model.

    Attributes:
        base: Digest of the base that it belongs to.
        weights: ``component.name`` -> value.
        guidance: How text branches are combined.
        filters: Refuse prompts or blank images.
        hooks: Change what layers put out.
    """

    base: str
    weights: Mapping[str, Tensor]
    guidance: Guidance
    filters: tuple[Filter, ...]
    hooks: tuple[Fitted, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of the base's digest and the edit's values, 64 hexadecimal digits."""
        sums = {name: tensor_digest(value) for name, value in self.weights.items()}
        about = {**self._json(), "weights": sums}
        if self.hooks:  # an edit without any keeps the name that it had before there were hooks
            held = ({n: _described(t) for n, t in one.tensors.items()} for one in self.hooks)
            about["tensors"] = list(held)
        return digest_of(about)

    def _json(self) -> dict[str, Any]:
        return {
            "base": self.base,
            "guidance": self.guidance.identity(),
            "filters": [f.identity() for f in self.filters],
        } | ({"hooks": [one.hook.identity() for one in self.hooks]} if self.hooks else {})

    def write(self, folder: Path) -> None:
        """Writes the files into a folder."""
        from safetensors.torch import save_file

        tensors = {n: w.detach().cpu().contiguous() for n, w in self.weights.items()}
        save_file(tensors, folder / _WEIGHTS, metadata={"base": self.base})
        if self.hooks:
            held = {
                f"{place}/{name}": value.detach().cpu().contiguous()
                for place, one in enumerate(self.hooks)
                for name, value in one.tensors.items()
            }
            save_file(held, folder / _HOOKS, metadata={"base": self.base})
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
        filters = tuple(Filter.from_identity(f) for f in about["filters"])
        return cls(
            base,
            _tensors(folder / _WEIGHTS),
            Guidance.from_identity(about["guidance"]),
            filters,
            _hooks(folder, about.get("hooks", [])),
        )


def read_hooks(folder: Path) -> tuple[Fitted, ...]:
    """The hooks of an edit that :meth:`Edit.write` left in a folder, whatever its base.

    Raises:
        UsageError: one of the files is not there, or no regular file.
        ValueError: a hook is not known here.
    """
    return _hooks(folder, json.loads(regular(folder / _EDIT).read_text()).get("hooks", []))


def _hooks(folder: Path, identities: Sequence[Mapping[str, Any]]) -> tuple[Fitted, ...]:
    if not identities:
        return ()
    held = _tensors(folder / _HOOKS)
    return tuple(
        Fitted(
            Hook.from_identity(identity),
            {n.removeprefix(f"{place}/"): t for n, t in held.items() if n.startswith(f"{place}/")},
        )
        for place, identity in enumerate(identities)
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(regular(path), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def _described(value: Tensor) -> list[Any]:
    """A tensor whose shape no base decides, as a digest has it."""
    return [str(value.dtype).removeprefix("torch."), list(value.shape), tensor_digest(value)]


def tensor_digest(value: Tensor) -> str:
    """sha256 of a tensor's bytes, row-major; shape and type are not in it."""
    # Flat first: a kernel of one pixel can count as contiguous and still lie channels last.
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()
