"""Frozen networks of a base, and what differs between families of bases: one class per family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from bench.core.lazy import torch
from bench.model.conditioning import Conditioning
from bench.model.families.roles import Role
from bench.model.regions import compile_regions, is_compiled
from bench.model.schedule import Schedule
from bench.model.words import Words

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.model.kernels.choice import Kernels

__all__ = ["Call", "Dtype", "Family"]

Dtype = Literal["float32", "bfloat16", "float16"]
Call = Callable[..., Any]
"""Calls a network by its name, with the values of an edit laid over it: ``call("unet", latents, ...)``."""


@dataclass(frozen=True, eq=False)
class Family(ABC):
    """Frozen networks; edits are laid over them and never written into them.

    Shapes: B rows, L tokens, E embedding width, D text width, C h w latent, H W pixels.

    Attributes:
        pipeline: The class of its pipelines, as ``model_index.json`` names it.
        about: Which models these are, for errors.
        classes: The classes that each part may have, as (library, name).
        unused: Likewise of parts that are published and never loaded.
        options: Values that a ``model_index.json`` may give beside its parts.
        tokenizers: The parts that are tokenizers, the one that plug-ins use first.
        stems: Of each network, the name of its weight files without endings.
        denoiser: The name of the network that predicts.
        encoders: Its text encoders; the first is the one whose token ids plug-ins see.
        edited: The networks that an edit may change, in order: all but the VAE.
        roles: Those that its parameters have.
        tokenizer: Text to token ids.
        text_encoder: Token ids to text states.
        unet: Predicts noise or v.
        vae: Latents to images and back.
        scheduler_config: The noise schedule.
        digest: sha256 over the files of the model.
        folder: Where it came from, if it was loaded.
    """

    pipeline: ClassVar[str]
    about: ClassVar[str]
    classes: ClassVar[Mapping[str, frozenset[tuple[str, str]]]]
    unused: ClassVar[Mapping[str, frozenset[tuple[str, str]]]]
    options: ClassVar[Mapping[str, object]] = {}
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    stems: ClassVar[Mapping[str, str]]
    denoiser: ClassVar[str]
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    edited: ClassVar[tuple[str, ...]]
    roles: ClassVar[frozenset[Role]]
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler_config: Mapping[str, Any]
    digest: str
    folder: Path | None = None
    _modules: dict[str, nn.Module] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.stems:
            module = getattr(self, name)
            module.eval().requires_grad_(requires_grad=False)
            self._modules[name] = module

    @classmethod
    @abstractmethod
    def load(
        cls,
        folder: Path,
        *,
        classes: Mapping[str, str],
        variants: Mapping[str, str | None],
        dtype: Dtype,
        digest: str,
        home: Path,
    ) -> Self:
        """Loads the networks, on the CPU.

        Args:
            folder: Holds the files to load, and no others.
            classes: The class of each part.
            variants: Of each network, the precision in its file names.
            dtype: Precision of all networks.
            digest: Of the base.
            home: Where the base lies.

        Raises:
            UsageError: weights are not those that their configuration asks for.
            Exception: whatever the libraries raise over files.
        """

    @abstractmethod
    def settle(self, device: str) -> None:
        """Moves the networks to a device, laid out and computed as suits it; before they are used."""

    @abstractmethod
    def use(self, kernels: Kernels) -> None:
        """Has the denoiser and the VAE computed by other kernels: the results differ by rounding.

        Raises:
            UsageError: they do not run on the device.
        """

    @property
    @abstractmethod
    def kernels(self) -> Kernels:
        """The kernels that the denoiser is computed by."""

    # -- parameters --------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def roles_of(cls, parameter: str) -> frozenset[Role]:
        """The roles of the parameter ``component.name``; none of one that no network has."""

    @classmethod
    @abstractmethod
    def text_layer(cls, parameter: str) -> int:
        """Which layer of the text encoder a parameter belongs to, from 0; -1 for one of none."""

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """Every parameter that an edit may replace, as ``component.name``: all but the VAE's."""
        return {
            f"{part}.{name}": weight
            for part in self.edited
            for name, weight in self._modules[part].named_parameters()
        }

    def network(self, part: str) -> nn.Module:
        """A network by its name."""
        return self._modules[part]

    # -- text --------------------------------------------------------------------------------------

    @cached_property
    def words(self) -> Words:
        """The tokenizer, as plug-ins use it."""
        return Words(self.tokenizer)

    @property
    @abstractmethod
    def length(self) -> int:
        """L, tokens in a prompt, the special ones included."""

    @property
    @abstractmethod
    def embeddings(self) -> str:
        """The parameter that holds the input embedding of each token, [rows, E]."""

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 [B, L], padded and cut to the model's length."""

    def embed(self, parameter: Callable[[str], Tensor], ids_BL: Tensor) -> Tensor:
        """Input embeddings of tokens, [B, L, E].

        Args:
            parameter: The current value of ``component.name``.
            ids_BL: Token ids; a row need be no text.
        """
        return torch.nn.functional.embedding(ids_BL, parameter(self.embeddings))

    @abstractmethod
    def encode_ids(self, call: Call, ids_BL: Tensor, embeds_BLE: Tensor | None) -> Conditioning:
        """The conditioning of token ids, from their own input embeddings or from those given."""

    def of_no_prompt(self, told: Conditioning) -> Conditioning:
        """The conditioning of branches without any prompt, given that of empty prompts: most bases take it as it is."""
        return told

    # -- images ------------------------------------------------------------------------------------

    @abstractmethod
    def denoise(
        self, call: Call, latents_BChw: Tensor, t_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """The prediction [B, C, h, w] for a conditioning of B rows, without guidance."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w of a latent at the model's own size."""

    @property
    @abstractmethod
    def latent_scale(self) -> int:
        """Pixels a latent cell."""

    @property
    def image_channels(self) -> int:
        """Channels of an image."""
        return int(self.vae.config.out_channels)

    @abstractmethod
    def decode(self, latents_BChw: Tensor) -> Tensor:
        """Images [B, 3, H, W] of clean latents, about -1 to 1."""

    @abstractmethod
    def to_latents(self, pixels_B3HW: Tensor) -> Tensor:
        """Scaled latents (posterior mean) of images from -1 to 1, in the VAE's precision."""

    # -- as a whole --------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(iter(self.network(self.denoiser).parameters())).device

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's precision."""
        return next(iter(self.network(self.denoiser).parameters())).dtype

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule, and what the denoiser predicts."""
        return Schedule.of(self.scheduler_config)

    def compile_networks(self) -> None:
        """Has the blocks of the denoiser and of the VAE's decoder compiled when they are first called.

        See :mod:`bench.model.regions`. Each kind of call (with and without gradients, of one row and of
        several) is compiled by itself. Torch keeps what it compiled for the next run, so it is
        worth it in long runs on a GPU. The results differ by rounding.
        """
        for network in (self.network(self.denoiser), self.vae.decoder):
            compile_regions(network)

    @property
    def compiled(self) -> bool:
        """Whether :meth:`compile_networks` was asked for."""
        return is_compiled(self.network(self.denoiser))

    @abstractmethod
    def to_diffusers(self, weights: Mapping[str, Tensor]) -> Any:
        """An ordinary diffusers pipeline with replaced values: a copy, free to change or save.

        Args:
            weights: ``component.name`` -> value.
        """
