"""The networks of a model with replaced values laid over them: text in, predictions and images out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.clock import model_time
from bench.core.lazy import torch
from bench.core.rng import normal_rows
from bench.model.sampler import Sampler
from bench.model.schedule import Schedule
from bench.model.words import Words

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.model.backbone import Backbone

__all__ = ["Networks"]


@dataclass(frozen=True, eq=False)
class Networks:
    """Frozen networks, shared, and the values of an edit.

    Shapes: B rows, L tokens, E embedding width, D text width, C h w latent, H W pixels.

    Attributes:
        backbone: The unedited networks, shared.
        weights: ``component.name`` -> the value that replaces the parameter. Values rather than
            differences, because adding a difference back is not exact.
    """

    backbone: Backbone
    weights: Mapping[str, Tensor] = field(default_factory=dict)

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
        return int(self.backbone.text_encoder.get_input_embeddings().weight.shape[0])

    def layer(self, name: str) -> nn.Module:
        """The layer ``component.name`` of the networks, to look at what goes in or out.

        Raises:
            AttributeError: there is no such layer.
        """
        part, _, path = name.partition(".")
        module: nn.Module = getattr(self.backbone, part)
        return module.get_submodule(path)

    def parameter(self, name: str) -> Tensor:
        """The current value of ``component.name``."""
        return self.weights[name] if name in self.weights else self.backbone.parameters[name]

    # -- forward -----------------------------------------------------------------------------------

    def _call(self, part: str, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        prefix = part + "."
        mine = {n.removeprefix(prefix): w for n, w in self.weights.items() if n.startswith(prefix)}
        with model_time():
            return (
                torch.func.functional_call(module, mine, args, kwargs)
                if mine
                else module(*args, **kwargs)
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w of a latent at the model's own size."""
        side = int(self.backbone.unet.config.sample_size)
        return int(self.backbone.unet.config.in_channels), side, side

    @property
    def end_of_text(self) -> int:
        """The id of the token that ends a text."""
        return self.words.end

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 [B, L], padded and cut to the model's length."""
        words = self.backbone.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.backbone.length,
            return_tensors="pt",
        )
        ids: Tensor = words["input_ids"]
        return ids.to(self.backbone.device)

    def embed(self, ids_BL: Tensor) -> Tensor:
        """Input embeddings of tokens, [B, L, E]."""
        name = "text_encoder." + self._embedding_name()
        return torch.nn.functional.embedding(ids_BL, self.parameter(name))

    def _embedding_name(self) -> str:
        embedding = self.backbone.text_encoder.get_input_embeddings().weight
        names = (n for n, w in self.backbone.text_encoder.named_parameters() if w is embedding)
        return next(names)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Text states [B, L, D] of prompts."""
        return self.encode_ids(self.tokenize(prompts))

    def encode_ids(self, ids_BL: Tensor, embeds_BLE: Tensor | None = None) -> Tensor:
        """Text states [B, L, D] of token ids.

        Args:
            ids_BL: Token ids; the encoder still finds the end of the text by them.
            embeds_BLE: Used instead of the ids' own input embeddings; gradients flow to it.
        """
        encoder = self.backbone.text_encoder
        with _embeddings_replaced(encoder, embeds_BLE):
            states: Tensor = self._call("text_encoder", encoder, input_ids=ids_BL)[0]
        return states

    def denoise(self, latents_BChw: Tensor, t: Tensor | int, states_BLD: Tensor) -> Tensor:
        """The UNet's prediction [B, C, h, w], without guidance; :attr:`schedule` says of what."""
        steps = torch.as_tensor(t, device=latents_BChw.device).expand(len(latents_BChw))
        out: Tensor = self._call(
            "unet", self.backbone.unet, latents_BChw, steps, encoder_hidden_states=states_BLD
        )[0]
        return out

    def decode(self, latents_BChw: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of clean latents; NaN where the decoder's output is not finite."""
        config = self.backbone.vae.config
        shift = getattr(config, "shift_factor", None) or 0.0
        with model_time():
            image: Tensor = self.backbone.vae.decode(latents_BChw / config.scaling_factor + shift)[
                0
            ]
        image = image.float()
        # Clamping would turn an infinity into a white pixel.
        return (image / 2 + 0.5).clamp(0, 1).masked_fill(~image.isfinite(), math.nan)

    def to_latents(self, images_B3HW: Tensor) -> Tensor:
        """Scaled latents (posterior mean) of images in [0, 1]."""
        config = self.backbone.vae.config
        pixels = (images_B3HW * 2 - 1).to(self.backbone.device, self.backbone.dtype)
        shift = getattr(config, "shift_factor", None) or 0.0
        with model_time(), torch.no_grad():
            mean: Tensor = self.backbone.vae.encode(pixels).latent_dist.mean
        return (mean - shift) * config.scaling_factor

    def noise(self, seeds: Sequence[int], sampler: Sampler) -> Tensor:
        """Initial noise [B, C, h, w] on the CPU, one generator an image."""
        channels, height, width = self.latent_shape
        if sampler.size is not None:
            height = width = sampler.size // self.backbone.latent_scale
        return normal_rows((channels, height, width), seeds)


@contextmanager
def _embeddings_replaced(encoder: Any, embeds_BLE: Tensor | None) -> Iterator[None]:
    """Makes the encoder's embedding table return ``embeds_BLE``: no version of transformers takes them directly."""
    if embeds_BLE is None:
        yield
        return
    handle = encoder.get_input_embeddings().register_forward_hook(
        lambda module, args, out: embeds_BLE
    )
    try:
        yield
    finally:
        handle.remove()
