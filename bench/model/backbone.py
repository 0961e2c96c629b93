"""The unedited networks of a Stable-Diffusion-class pipeline, loaded once and never changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from bench.core.errors import UsageError, in_one_line, shown
from bench.model.on_cpu import suit_cpu
from bench.model.pipeline.inspect import BaseFiles, inspect_base, nothing_else
from bench.model.schedule import Schedule
from bench.model.words import Words

__all__ = ["Backbone", "load_backbone", "load_inspected"]

Dtype = Literal["float32", "bfloat16", "float16"]

_KINDS = 256  # of calls that are compiled, before the rest runs as it is: a suite has many edits
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

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule, and what the UNet predicts."""
        return Schedule.of(self.scheduler_config)

    @cached_property
    def words(self) -> Words:
        """The tokenizer, as plug-ins use it."""
        return Words(self.tokenizer)

    @property
    def length(self) -> int:
        """Tokens in a prompt, the special ones included."""
        return int(self.text_encoder.config.max_position_embeddings)

    @property
    def latent_scale(self) -> int:
        """Pixels a latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


def load_backbone(
    source: str,
    *,
    revision: str | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
    compile: bool = False,
) -> Backbone:
    """Loads a pipeline: :func:`bench.model.pipeline.inspect.inspect_base`, then :func:`load_inspected`.

    Args:
        source: ``miniature``, a local diffusers folder, or a hub id (which needs ``revision``, a
            commit).
        revision: Commit of the hub repository.
        dtype: Precision of all networks.
        device: A torch device.
        compile: See :meth:`Backbone.compile_networks`.

    Raises:
        UsageError: nothing usable there: no such folder, pickled weights only, damaged files,
            missing parts, another kind of model.
    """
    files = inspect_base(source, revision=revision)
    return load_inspected(files, dtype=dtype, device=device, compile=compile)


def load_inspected(
    files: BaseFiles, *, dtype: Dtype = "float32", device: str = "cpu", compile: bool = False
) -> Backbone:
    """Loads the networks of a base that was inspected.

    Args:
        files: From :func:`bench.model.pipeline.inspect.inspect_base`.
        dtype: Precision of all networks.
        device: A torch device.
        compile: See :meth:`Backbone.compile_networks`.

    Raises:
        UsageError: the libraries cannot load it, or its weights are not those that its
            configurations ask for.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with nothing_else(files) as view, _told(files, view):
        pipe = _pipeline(files, view, _DTYPES[dtype])
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
        digest=files.digest,
        folder=files.folder,
    )
    if compile:
        backbone.compile_networks()
    return backbone


@contextmanager
def _told(files: BaseFiles, view: Path) -> Iterator[None]:
    """Turns whatever the libraries raise over a folder's files, seen in a view, into one line."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"base {shown(files.source)}: {error}") from error
    except torch.OutOfMemoryError:
        raise  # not the folder's fault
    except Exception as error:  # they raise dozens of kinds, and promise none
        said = in_one_line(error).replace(str(view), str(files.folder))
        raise UsageError(f"base {shown(files.source)}: could not be loaded: {said}") from error


def _pipeline(files: BaseFiles, view: Path, dtype: torch.dtype) -> StableDiffusionPipeline:
    """The parts, each by the class that the inspection allowed: nothing in the folder names what is imported."""
    networks = {
        part: _network(kind, files, view, part, dtype)
        for part, kind in (
            ("unet", UNet2DConditionModel),
            ("vae", AutoencoderKL),
            ("text_encoder", CLIPTextModel),
        )
    }
    scheduler = getattr(diffusers, files.classes["scheduler"])
    return StableDiffusionPipeline(
        **networks,
        tokenizer=CLIPTokenizer.from_pretrained(view / "tokenizer", local_files_only=True),
        scheduler=scheduler.from_pretrained(view / "scheduler", local_files_only=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _network(kind: Any, files: BaseFiles, view: Path, part: str, dtype: torch.dtype) -> Any:
    folder = files.folder / part
    network, told = kind.from_pretrained(
        view / part,
        dtype=dtype,
        variant=files.variants[part],
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    # The libraries fill in random numbers where the files have none.
    for wrong, reason in (("missing_keys", "lack"), ("mismatched_keys", "have another shape of")):
        if names := sorted(map(str, told.get(wrong) or ())):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UsageError(f"{folder}: the weights {reason} {shown(names[0])}{more}")
    if told.get("error_msgs"):
        raise UsageError(f"{folder}: {in_one_line(ValueError(told['error_msgs'][0]))}")
    return network
