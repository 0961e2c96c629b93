"""Somebody's edited model as a method: the weights of a released erasure, laid over its base.

Read are: a diffusers pipeline folder (its ``unet`` and ``text_encoder``, both or what it has of
them, and nothing else), the folder or the safetensors file of one of them, and a LoRA in the key
styles of PEFT, diffusers (new and old) and kohya. Nothing in a file is executed or unpickled, and
nothing is taken on trust: names, shapes and values are compared with the base, and what does not
fit is refused in one line.

The concepts play no part: what is erased is what the file's author erased. Which base the file was
made from cannot be checked beyond names and shapes; that is the user's to know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.bounds import Factor
from bench.digest import digest_of, file_sha256
from bench.errors import UsageError
from bench.interfaces import Concept, Erasure, Progress, Rng, Slot, silent
from bench.model import TextToImage
from bench.paths import expanded
from bench.spec import runtime
from methods.lora import is_lora, merged, within

__all__ = ["Checkpoint"]

_PARTS = ("unet", "text_encoder")
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_CONVERT = (
    "it can run code when it is read: convert it where that is no harm, with save_pretrained(..., "
    "safe_serialization=True) or safetensors.torch.save_file, and give the .safetensors"
)
_VARIANTS = (".fp16.", ".bf16.", ".non_ema.")


class Checkpoint(Erasure):
    """The base with the weights of a file.

    Its identity is the content of the file, wherever that lies.

    Attributes:
        path: A safetensors file or a folder; see the module. Required.
        sha256: Of the content; taken from the file when it is not given. With it given, the file
            is needed only where the edit is made, and must have it.
        scale: Strength of a LoRA; whole models have 1.
        names: ``all``: the file must hold every parameter of a network; ``some``: it may hold the
            changed ones alone, as several methods save them.
    """

    name: ClassVar[str] = "checkpoint"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    # Fields without which no edit can be made, though the spec can be built without them.
    needs: ClassVar[tuple[str, ...]] = ("path",)
    path: str = runtime("")
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    scale: Factor = 1.0
    names: Literal["all", "some"] = "all"

    @model_validator(mode="before")
    @classmethod
    def _know_the_content(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and isinstance(fields.get("path"), str) and fields["path"]:
            if not fields.get("sha256"):
                return {**fields, "sha256": _content(_files(fields["path"]))}
        return fields

    @property
    def label(self) -> str:
        """The file's name and the beginning of its sha256, which tells namesakes apart."""
        extra = [] if self.scale == 1 else [f"scale={self.scale:g}"]
        return f"checkpoint({', '.join([Path(self.path).name, self.sha256[:8], *extra])})"

    def touches(self, parameter: str) -> bool:
        """Every parameter of the UNet and the text encoder."""
        return parameter.startswith(tuple(f"{part}." for part in _PARTS))

    def erase(
        self,
        model: TextToImage,
        concepts: Sequence[Concept],
        *,
        rng: Rng,
        progress: Progress = silent,
    ) -> TextToImage:
        """The model with the parameters of the file that differ from its own.

        Raises:
            ValueError: the file is not there, or not what was expected.
        """
        if not self.path:
            raise UsageError("checkpoint: expected the path of an edited model as `path`, got none")
        files = _files(self.path)
        if (found := _content(files)) != self.sha256:
            raise UsageError(
                f"checkpoint: expected {self.path} with sha256 {self.sha256[:12]}, got "
                f"{found[:12]}: it has changed; restore it or correct `sha256`"
            )
        edited: dict[str, Tensor] = {}
        for part, paths in files.items():
            tensors, about = _read(paths)
            if is_lora(tensors):
                values = merged(model, tensors, about, scale=self.scale, origin=self.path)
            else:
                values = self._whole(model, part, tensors)
            edited |= _changed(model, values)
            progress(1, 1, "checkpoint")
        if not edited:
            raise UsageError(
                f"checkpoint: expected an edited model, got the base itself: no parameter in "
                f"{self.path} differs from it; check that it is the edited file"
            )
        return model.with_weights(edited)

    def _whole(
        self, model: TextToImage, part: str, tensors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """``component.name`` -> value of a file that holds parameters."""
        if self.scale != 1:
            raise UsageError(
                f"checkpoint: expected a LoRA to scale by {self.scale:g}, got whole parameters in "
                f"{self.path}; leave `scale` out"
            )
        known = model.backbone.parameters
        part = part or _part_of(known, tensors, self.path)
        values, extra = {}, []
        for name, value in tensors.items():
            if name.endswith("position_ids"):
                continue  # a table of 0, 1, 2, ... that older versions stored
            if (found := within(known, part, name)) is None:
                extra.append(name)
            else:
                values[found] = value
        missing = [n for n in known if n.startswith(f"{part}.") and n not in values]
        for what, names in (("more than", extra), ("not all of", missing)):
            if names and (names is extra or self.names == "all"):
                hint = " or set `names: some`" if names is missing else ""
                raise UsageError(
                    f"checkpoint: expected the parameters of the base's {part}, got {what} these in "
                    f"{self.path}: {len(names)}, e.g. {', '.join(sorted(names)[:3])}; give the model "
                    f"that it was made from as base{hint}"
                )
        for name, value in values.items():
            if value.shape != known[name].shape:
                raise UsageError(
                    f"checkpoint: expected {name} of shape {tuple(known[name].shape)}, got "
                    f"{tuple(value.shape)} in {self.path}; give the model that it was made from as "
                    "base"
                )
        return values


def _changed(model: TextToImage, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values that differ from the model's by more than the rounding of the file or of the model."""
    changed = {}
    for name, value in values.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise UsageError(
                f"checkpoint: expected finite numbers, got others in {name}; the file is damaged, or "
                "its training diverged"
            )
        if not _alike(model.parameter(name).cpu(), value):
            changed[name] = value
    return changed


def _alike(mine: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors may be one, stored in the precision of each."""
    coarse, fine = sorted((mine, theirs), key=lambda w: torch.finfo(w.dtype).eps, reverse=True)
    if torch.equal(fine.to(coarse.dtype), coarse):
        return True
    if coarse.dtype == fine.dtype or fine.element_size() >= 4:
        return False
    # Both are rounded, and what was rounded twice may lie a step from what was rounded once: each
    # is within half its own spacing of the value that both are of.
    spacings = (
        torch.finfo(w.dtype).eps * w.double().abs().clamp(min=torch.finfo(w.dtype).tiny)
        for w in (coarse, fine)
    )
    return bool(((coarse.double() - fine.double()).abs() <= sum(spacings) / 2).all())


def _part_of(known: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str) -> str:
    """Which network most of the names belong to."""
    counts = {p: sum(within(known, p, name) is not None for name in tensors) for p in _PARTS}
    part = max(counts, key=lambda p: counts[p])
    if not counts[part]:
        raise UsageError(
            f"checkpoint: expected parameters of the base's {' or '.join(_PARTS)}, or a LoRA, got "
            f"other names in {path}, e.g. {', '.join(sorted(tensors)[:3]) or 'none'}; convert the "
            "file to diffusers' names"
        )
    return part


# -- files ---------------------------------------------------------------------------------------


def _files(path: str) -> dict[str, list[Path]]:
    """The files to read, by component; under "" where their names must tell.

    Raises:
        UsageError: there are none, or one of the networks is pickled or lacks its weights.
    """
    where = expanded(path)
    if where.is_file():
        if where.suffix in _PICKLED:
            raise UsageError(f"checkpoint: expected safetensors, got the pickle {path}; {_CONVERT}")
        if where.suffix != ".safetensors":
            raise UsageError(
                f"checkpoint: expected a .safetensors file or a folder, got {path}; convert it"
            )
        return {"": [where]}
    if not where.is_dir():
        raise UsageError(
            f"checkpoint: expected a file or a folder, got {path}, which is not there; nothing is "
            "downloaded: fetch it first"
        )
    parts = {part: _weights(where / part) for part in _PARTS if (where / part).is_dir()}
    found = parts or {"": _weights(where)}
    # A network that cannot be read may be the one that was edited: the other alone is half an edit.
    unread = [where / part for part, files in found.items() if not files]
    pickled = [p for folder in unread for p in sorted(folder.rglob("*")) if p.suffix in _PICKLED]
    pickled += [where / f"{part}{end}" for part in _PARTS for end in sorted(_PICKLED)]
    readable = next((part for part, files in found.items() if files), "")
    instead = f"; or give {where / readable}, if that alone was edited" if readable else ""
    if there := [p.relative_to(where) for p in pickled if p.is_file()]:
        raise UsageError(
            f"checkpoint: expected safetensors, got the pickle {there[0]} in {path}; "
            f"{_CONVERT}{instead}"
        )
    if unread:
        wanted = f"{path}, its unet or its text_encoder" if unread == [where] else str(unread[0])
        hint = instead or "; give the folder of a diffusers pipeline or of one of these"
        raise UsageError(f"checkpoint: expected safetensors in {wanted}, got none{hint}")
    return found


def _weights(folder: Path) -> list[Path]:
    """The safetensors of a folder; a copy in another precision only where there is no other."""
    files = sorted(folder.glob("*.safetensors"))
    return [f for f in files if not any(v in f.name for v in _VARIANTS)] or files


def _content(files: Mapping[str, Sequence[Path]]) -> str:
    """sha256 of a file, or of what the files of a folder are called and hold."""
    if list(files) == [""] and len(files[""]) == 1 and not _settings(files[""][0]):
        return file_sha256(files[""][0])
    read = [(part, p) for part, paths in files.items() for p in (*paths, *_settings(paths[0]))]
    return digest_of({f"{part}/{p.name}": file_sha256(p) for part, p in read})


def _settings(weights: Path) -> list[Path]:
    """PEFT's own settings, which hold the strength of its adapter."""
    beside = weights.with_name("adapter_config.json")
    return [beside] if weights.name == "adapter_model.safetensors" and beside.is_file() else []


def _read(paths: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors, and what is said about them."""
    tensors: dict[str, Tensor] = {}
    about: dict[str, Any] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                about |= _json((file.metadata() or {}).get("lora_adapter_metadata", "{}"), path)
                for name in file.keys():
                    if name in tensors:
                        raise UsageError(
                            f"checkpoint: expected each name once, got {name} again in {path}; "
                            "remove one of the files"
                        )
                    tensors[name] = file.get_tensor(name)
        except SafetensorError as error:
            raise UsageError(
                f"checkpoint: expected safetensors, got {path}, which cannot be read ({error}); "
                "fetch it again"
            ) from error
    for path in _settings(paths[0]):
        about |= _json(path.read_text(encoding="utf-8"), path)
    return tensors, about


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"checkpoint: expected JSON about the LoRA in {path}, got {error}"
        ) from error
    return value if isinstance(value, dict) else {}
