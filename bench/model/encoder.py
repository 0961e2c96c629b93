"""The side of a model that reads text: all that guidances and prompt filters may ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from bench.model.batching import MicroBatch
    from bench.model.conditioning import Conditioning

__all__ = ["TextEncoder"]


class TextEncoder(Protocol):
    """Text in, conditioning out; :class:`bench.model.text_to_image.TextToImage` is one.

    Shapes: B rows, L tokens, E embedding width, D text width.
    """

    @property
    def micro(self) -> MicroBatch:
        """Rows worked on at once."""

    @property
    def end_of_text(self) -> int:
        """The id of the token that ends a text."""

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 [B, L], padded and cut to the model's length."""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of prompts, a row each."""

    def encode_branches(self, texts: Sequence[str]) -> Conditioning:
        """The conditioning of a guidance's other branches, a row each; an empty text stands for no prompt at all."""

    def encode_ids(self, ids_BL: Tensor, embeds_BLE: Tensor | None = None) -> Conditioning:
        """The conditioning of token ids, from their own input embeddings or from those given."""
