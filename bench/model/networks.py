"""The networks of a model, with an edit's values and hooks laid over: text in, predictions and images out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.clock import model_time
from bench.core.lazy import torch
from bench.core.rng import normal_rows
from bench.model.conditioning import Conditioning
from bench.model.families.roles import Role
from bench.model.hooks import Fitted, Pass, hooked
from bench.model.sampler import Sampler
from bench.model.schedule import Schedule
from bench.model.words import Words

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.model.families.family import Family

__all__ = ["Networks"]


@dataclass(frozen=True, eq=False)
class Networks:
    """Frozen networks, shared, and the values of an edit.

    Shapes: B rows, L tokens, E embedding width, D text width, C h w latent, H W pixels.

    Attributes:
        backbone: The unedited networks, shared.
        weights: ``component.name`` -> the value that replaces the parameter. Values rather than
            differences, because adding a difference back is not exact.
        hooks: Change what layers put out, one after the other.
    """

    backbone: Family
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    hooks: tuple[Fitted, ...] = ()

    # -- of the base -------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' precision."""
        return self.backbone.dtype

    @property
    def folder(self) -> Path | None:
        """The pipeline folder that the base came from, if it was loaded."""
        return self.backbone.folder

    @property
    def base_digest(self) -> str:
        """sha256 over the files of the base, 64 hexadecimal digits."""
        return self.backbone.digest

    @property
    def base_values(self) -> Mapping[str, Tensor]:
        """The unedited value of every parameter that an edit may replace, by ``component.name``."""
        return self.backbone.parameters

    @property
    def schedule(self) -> Schedule:
        """The noise schedule, and what the network predicts."""
        return self.backbone.schedule

    @property
    def words(self) -> Words:
        """The tokenizer."""
        return self.backbone.words

    @property
    def length(self) -> int:
        """L, the tokens of a prompt, the special ones included."""
        return self.backbone.length

    @property
    def vocabulary(self) -> int:
        """Rows of the table of input embeddings; the tokenizer may know fewer tokens."""
        return len(self.backbone.parameters[self.backbone.embeddings])

    def layer(self, name: str) -> nn.Module:
        """The layer ``component.name`` of the networks, to look at what goes in or out.

        Raises:
            KeyError: there is no such network.
            AttributeError: there is no such layer.
        """
        part, _, path = name.partition(".")
        return self.backbone.network(part).get_submodule(path)

    def parameter(self, name: str) -> Tensor:
        """The current value of ``component.name``."""
        return self.weights[name] if name in self.weights else self.backbone.parameters[name]

    def roles_of(self, parameter: str) -> frozenset[Role]:
        """The roles of ``component.name``."""
        return self.backbone.roles_of(parameter)

    def text_layer(self, parameter: str) -> int:
        """Which layer of the text encoder ``component.name`` belongs to, from 0; -1 for one of none."""
        return self.backbone.text_layer(parameter)

    def having(self, *roles: Role) -> list[str]:
        """The parameters that have one of these roles, in the model's order."""
        wanted = set(roles)
        return [name for name in self.base_values if wanted & self.roles_of(name)]

    def layers(self, *roles: Role) -> list[str]:
        """The layers all of whose parameters have one of these roles, the outermost of each; to be hooked."""
        wanted, found = set(roles), list[str]()
        for part in self.backbone.edited:
            for path, module in self.backbone.network(part).named_modules():
                name = f"{part}.{path}" if path else part
                if found and name.startswith(f"{found[-1]}."):
                    continue
                if isinstance(module, torch.nn.ModuleList):
                    continue  # it is never called
                inside = [f"{name}.{n}" for n, _ in module.named_parameters()]
                if inside and all(wanted & self.roles_of(one) for one in inside):
                    found.append(name)
        return found

    # -- forward -----------------------------------------------------------------------------------

    def _call(self, told: Pass, part: str, *args: Any, **kwargs: Any) -> Any:
        module, prefix = self.backbone.network(part), part + "."
        mine = {n.removeprefix(prefix): w for n, w in self.weights.items() if n.startswith(prefix)}
        with model_time(), hooked(self.hooks, module, replace(told, part=part)):
            return (
                torch.func.functional_call(module, mine, args, kwargs)
                if mine
                else module(*args, **kwargs)
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w of a latent at the model's own size."""
        return self.backbone.latent_shape

    @property
    def end_of_text(self) -> int:
        """The id of the token that ends a text."""
        return self.words.end

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 [B, L], padded and cut to the model's length."""
        return self.backbone.tokenize(prompts)

    def embed(self, ids_BL: Tensor) -> Tensor:
        """Input embeddings of tokens, [B, L, E]."""
        return self.backbone.embed(self.parameter, ids_BL)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of prompts, a row each."""
        return self.encode_ids(self.tokenize(prompts))

    def encode_branches(self, texts: Sequence[str]) -> Conditioning:
        """The conditioning of a guidance's other branches, a row each; an empty text stands for no prompt at all."""
        told = self.encode(texts)
        none = self.backbone.of_no_prompt(told)
        if none is told:
            return told
        rows = [none[[i]] if text == "" else told[[i]] for i, text in enumerate(texts)]
        return Conditioning.cat(rows)

    def encode_ids(self, ids_BL: Tensor, embeds_BLE: Tensor | None = None) -> Conditioning:
        """The conditioning of token ids, a row each.

        Args:
            ids_BL: Token ids; the encoder still finds the end of the text by them.
            embeds_BLE: Used instead of the ids' own input embeddings; gradients flow to it. The
                conditioning then has no token ids: nobody can read such a text.
        """
        told = Pass("", ids=() if embeds_BLE is not None else (ids_BL,))
        said = self.backbone.encode_ids(partial(self._call, told), ids_BL, embeds_BLE)
        return said if embeds_BLE is None else replace(said, ids=())

    def denoise(
        self,
        latents_BChw: Tensor,
        t: Tensor | int,
        conditioning: Conditioning,
        *,
        branches: int = 1,
    ) -> Tensor:
        """The UNet's prediction [B, C, h, w], without guidance; :attr:`schedule` says of what.

        Args:
            latents_BChw: Noisy latents.
            t: Timestep, one for all rows or [B].
            conditioning: B rows.
            branches: How many blocks of rows belong to the branches of a guidance; hooks are told.
        """
        steps = torch.as_tensor(t, device=latents_BChw.device).expand(len(latents_BChw))
        told = Pass("", conditioning.ids, conditioning, steps, branches)
        return self.backbone.denoise(partial(self._call, told), latents_BChw, steps, conditioning)

    def decode(self, latents_BChw: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of clean latents; NaN where the decoder's output is not finite."""
        with model_time():
            image = self.backbone.decode(latents_BChw).float()
        # Clamping would turn an infinity into a white pixel.
        return (image / 2 + 0.5).clamp(0, 1).masked_fill(~image.isfinite(), math.nan)

    def to_latents(self, images_B3HW: Tensor) -> Tensor:
        """Scaled latents (posterior mean) of images in [0, 1]."""
        pixels = (images_B3HW * 2 - 1).to(self.device, self.dtype)
        with model_time(), torch.no_grad():
            return self.backbone.to_latents(pixels)

    def noise(self, seeds: Sequence[int], sampler: Sampler) -> Tensor:
        """Initial noise [B, C, h, w] on the CPU, one generator per image."""
        channels, height, width = self.latent_shape
        if sampler.size is not None:
            height = width = sampler.size // self.backbone.latent_scale
        return normal_rows((channels, height, width), seeds)
