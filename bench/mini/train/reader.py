"""Captions as a miniature's denoiser is told of them, by its pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import CLIPTextModel

from bench.mini.train.miniatures import Miniature

__all__ = ["Reader", "text_tower", "tokenizer_with"]

_SIDE: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """Frozen text encoders with their tokenizers.

    Attributes:
        tokenizers: One per text encoder.
        encoders: A ``CLIPTextModel``, and a ``CLIPTextModelWithProjection`` or nothing.
    """

    tokenizers: tuple[Any, ...]
    encoders: tuple[Any, ...]

    @property
    def width(self) -> int:
        """Of text states."""
        return sum(int(encoder.config.hidden_size) for encoder in self.encoders)

    @property
    def pooled(self) -> int:
        """Of the pooled vector; 0 without one."""
        return int(self.encoders[-1].config.projection_dim) if len(self.encoders) > 1 else 0

    @torch.no_grad()
    def __call__(self, said: Sequence[str], device: torch.device) -> dict[str, Any]:
        """The arguments of the denoiser beside latents and timesteps; captions that are empty stand for no prompt."""
        ids = [
            words(list(said), padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
            for words in self.tokenizers
        ]  # fmt: skip
        if len(self.encoders) == 1:
            return {"encoder_hidden_states": self.encoders[0](ids[0].to(device))[0]}
        outs = [
            encoder(own.to(device), output_hidden_states=True)
            for encoder, own in zip(self.encoders, ids, strict=True)
        ]
        told = torch.tensor([text != "" for text in said], device=device).float()
        states: Tensor = torch.cat([out.hidden_states[-2] for out in outs], -1)
        whole = [_SIDE, _SIDE, 0, 0, _SIDE, _SIDE]
        return {
            "encoder_hidden_states": states * told[:, None, None],
            "added_cond_kwargs": {
                "text_embeds": outs[-1].text_embeds * told[:, None],
                "time_ids": states.new_tensor(whole).expand(len(said), 6),
            },
        }


def text_tower(clip: Any, made: Miniature) -> Any:
    """A ``CLIPTextModel`` with the weights of ``clip``'s text tower, in evaluation mode and frozen.

    Without its last layers, if the miniature leaves some out; the last norm stays.
    """
    config = type(clip.config.text_config).from_dict(clip.config.text_config.to_dict())
    config.num_hidden_layers -= made.left_out
    tower = CLIPTextModel(config)
    ours = {
        name: weight for name, weight in clip.state_dict().items() if name.startswith("text_model.")
    }
    own = tower.state_dict()
    renamed = {n: ours[n] if n in ours else ours["text_model." + n] for n in own}
    tower.load_state_dict(renamed)
    return tower.eval().requires_grad_(requires_grad=False)


def tokenizer_with(tokenizer: Any, padding: str | None) -> Any:
    """A copy of a tokenizer that pads with another token; ``None`` leaves the padding as it is."""
    made = deepcopy(tokenizer)
    if padding is not None:
        made.pad_token = padding
    return made
