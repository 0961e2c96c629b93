"""A model's tokenizer, as far as plug-ins need it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

__all__ = ["Words"]

_END = "</w>"  # of a word, in CLIP's vocabularies


class Words:
    """Text to token ids and back, without special tokens; two are equal if they are one object.

    Args:
        tokenizer: ``CLIPTokenizer``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        """How many tokens it knows, the special ones included."""
        return len(self._tokenizer)

    @property
    def start(self) -> int:
        """The id that begins every text."""
        return int(self._tokenizer.bos_token_id)

    @property
    def end(self) -> int:
        """The id that ends every text; padding may be the same."""
        return int(self._tokenizer.eos_token_id)

    @property
    def pad(self) -> int:
        """The id that fills a text up to the model's length."""
        return int(self._tokenizer.pad_token_id)

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return frozenset(self._tokenizer.all_special_ids)

    @cached_property
    def whole(self) -> tuple[str, ...]:
        """The tokens that are whole words, in the order of their spelling, without the mark of their end."""
        special = set(self._tokenizer.all_special_tokens)
        ends = (w for w in sorted(self._tokenizer.get_vocab()) if w.endswith(_END))
        return tuple(w.removesuffix(_END) for w in ends if w not in special)

    def ids(self, text: str) -> list[int]:
        """The token ids of a text."""
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens say nothing."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
