"""The unedited networks of a Stable-Diffusion-class pipeline, loaded once and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from bench.digest import digest_of, file_sha256
from bench.errors import UsageError
from bench.mini.paths import model_folder
from bench.on_cpu import suit_cpu

__all__ = ["Backbone", "load_backbone"]

_KINDS = 256  # of calls that are compiled, before the rest runs as it is: a suite has many edits
_SUMS = "SHA256SUMS"
_PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Backbone:
    """Frozen networks; edits are laid over them and never written into them.

    Attributes:
        tokenizer: ``CLIPTokenizer``.
        text_encoder: ``CLIPTextModel``.
        unet: ``UNet2DConditionModel``.
        vae: ``AutoencoderKL``.
        scheduler_config: The noise schedule.
        digest: sha256 over the files of the model.
        folder: Where it came from, if it was loaded.
    """

    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler_config: Mapping[str, Any]
    digest: str
    folder: Path | None = None
    _modules: dict[str, nn.Module] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name, module in (
            ("unet", self.unet),
            ("text_encoder", self.text_encoder),
            ("vae", self.vae),
        ):
            module.eval().requires_grad_(requires_grad=False)
            self._modules[name] = module

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(iter(self.unet.parameters())).device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's precision."""
        return next(iter(self.unet.parameters())).dtype

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """Every parameter of the UNet and the text encoder, as ``component.name``."""
        return {
            f"{part}.{name}": weight
            for part in ("unet", "text_encoder")
            for name, weight in self._modules[part].named_parameters()
        }

    def compile_networks(self) -> None:
        """Has the UNet and the VAE's decoder compiled when they are first called.

        Each kind of call (with and without gradients, of one row and of several, with each set of
        edited parameters) is compiled by itself, which takes a minute or more at Stable Diffusion's
        size: worth it in long runs on a GPU. The results differ by rounding.
        """
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(_KINDS, limit)
        self.unet.compile()
        self.vae.decoder.compile()

    @property
    def compiled(self) -> bool:
        """Whether :meth:`compile_networks` was asked for."""
        return self.unet._compiled_call_impl is not None

    @property
    def length(self) -> int:
        """Tokens in a prompt, the special ones included."""
        return int(self.text_encoder.config.max_position_embeddings)

    @property
    def latent_scale(self) -> int:
        """Pixels a latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


def _check_sums(folder: Path) -> None:
    """Refuses a folder whose ``SHA256SUMS`` do not match."""
    for line in (folder / _SUMS).read_text().splitlines():
        digest, _, name = line.partition("  ")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise UsageError(f"{folder / _SUMS} names {name!r}, which is not a file of that folder")
        if file_sha256(path) != digest:
            raise UsageError(
                f"{path} is damaged: its SHA-256 is not the one in {_SUMS}; restore the file"
            )


def _digest(folder: Path) -> str:
    files = sorted(p for part in _PARTS for p in (folder / part).rglob("*") if p.is_file())
    wanted = {
        p.relative_to(folder).as_posix(): file_sha256(p) for p in files if p.suffix in _HASHED
    }
    return digest_of(wanted)


_HASHED = {".json", ".safetensors", ".txt"}


def load_backbone(
    source: str,
    *,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    compile: bool = False,
) -> Backbone:
    """Loads a pipeline.

    Args:
        source: ``miniature``, a local diffusers folder, or a hub id (which needs ``revision``, a
            commit).
        revision: Commit of the hub repository.
        dtype: Precision of all networks.
        device: A torch device.
        compile: See :meth:`Backbone.compile_networks`.

    Raises:
        UsageError: nothing usable there: no such folder, pickled weights only, damaged files,
            missing parts.
    """
    folder = model_folder() if source == "miniature" else Path(source).expanduser()
    if not folder.is_dir():
        if revision is None:
            raise UsageError(
                f"base {source!r}: no such folder; a hub id needs a revision (a commit), e.g. "
                f"base: CompVis/stable-diffusion-v1-4, revision: <40 hex digits>"
            )
        folder = Path(
            snapshot_download(
                source, revision=revision, allow_patterns=["*.json", "*.txt", "*.safetensors"]
            )
        )
    if not (folder / "model_index.json").is_file():
        raise UsageError(
            f"base {source!r}: {folder} has no model_index.json; expected a diffusers pipeline folder"
        )
    if (folder / _SUMS).is_file():
        _check_sums(folder)
    index = json.loads((folder / "model_index.json").read_text())
    missing = [part for part in _PARTS if part not in index or not (folder / part).is_dir()]
    if missing:
        raise UsageError(
            f"base {source!r}: {folder} lacks {', '.join(missing)}; expected a Stable Diffusion pipeline"
        )
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=_DTYPES[dtype],
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"base {source!r}: {reason} (only safetensors are read; convert pickled weights)"
        ) from error
    for module in (pipe.unet, pipe.vae):
        module.to(device=device, memory_format=torch.channels_last)
    pipe.text_encoder.to(device)
    suit_cpu(pipe.unet, pipe.vae, pipe.text_encoder)
    backbone = Backbone(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        unet=pipe.unet,
        vae=pipe.vae,
        scheduler_config=dict(pipe.scheduler.config),
        digest=_digest(folder),
        folder=folder,
    )
    if compile:
        backbone.compile_networks()
    return backbone
