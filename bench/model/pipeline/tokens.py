"""The files of a tokenizer, and the values that they may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from bench.core.errors import BRANCH

__all__ = ["DEFAULTS", "SpecialTokens", "TokenizerConfig", "Whole"]

_START, _END = "<|startoftext|>", "<|endoftext|>"
_TEXT, _OBJECT = f"{BRANCH}text", f"{BRANCH}object"
DEFAULTS: Final = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
"""Of ``CLIPTokenizer``: its prompts begin and end with them, and are filled up."""
_MARK: Final = {"__type": "AddedToken"}
"""Says in ``tokenizer_config.json`` that an object is a token; elsewhere it may not be there."""


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Token(_Read):
    """A token with the way that it is found in a text."""

    content: Annotated[str, Field(min_length=1)]
    lstrip: bool = False
    normalized: bool = False
    rstrip: bool = False
    single_word: bool = False
    special: bool = False

    def handed_on(self) -> dict[str, Any]:
        """The keys that a file gave."""
        return self.model_dump(include=set(Token.model_fields) & self.model_fields_set)


class Numbered(Token):
    """A token of a whole tokenizer."""

    id: int


_Token = Annotated[
    Annotated[str, Field(min_length=1), Tag(_TEXT)] | Annotated[Token, Tag(_OBJECT)],
    Discriminator(lambda value: _OBJECT if isinstance(value, dict | Token) else _TEXT),
]


class SpecialTokens(_Read):
    """Of ``special_tokens_map.json``."""

    bos_token: _Token = _START
    eos_token: _Token = _END
    pad_token: _Token = _END
    unk_token: _Token = _END
    sep_token: _Token | None = None
    cls_token: _Token | None = None
    mask_token: _Token | None = None
    additional_special_tokens: list[_Token] | None = None
    extra_special_tokens: list[_Token] | None = None

    def named(self) -> dict[str, str]:
        """The tokens that the file names, by their keys."""
        given = ((key, getattr(self, key)) for key in self.model_fields_set if key in _NAMED)
        return {key: _text(token) for key, token in given if token is not None}

    def extra(self) -> list[str]:
        """The further tokens that it names."""
        return [
            _text(one)
            for one in (*(self.additional_special_tokens or ()), *(self.extra_special_tokens or ()))
        ]

    def handed_on(self) -> dict[str, Any]:
        """The keys that the file gave and that were checked, as transformers reads them there."""
        return dict(self._given({}))

    def _given(self, mark: dict[str, str]) -> Iterator[tuple[str, Any]]:
        for key in sorted(self.model_fields_set):
            match getattr(self, key):
                case Token() as token:
                    yield key, {**mark, **token.handed_on()}
                case [*tokens] if mark:
                    yield (
                        key,
                        [{**mark, **t.handed_on()} if isinstance(t, Token) else t for t in tokens],
                    )
                case [*tokens]:
                    yield key, [_text(token) for token in tokens]
                case None | dict():
                    continue
                case value:
                    yield key, value


class TokenizerConfig(SpecialTokens):
    """Of ``tokenizer_config.json``."""

    model_max_length: Annotated[int, Field(gt=0, le=10**31)] | None = None
    padding_side: Literal["left", "right"] = "right"
    truncation_side: Literal["left", "right"] = "right"
    clean_up_tokenization_spaces: bool | None = None
    split_special_tokens: bool = False
    added_tokens_decoder: dict[Annotated[str, Field(pattern=r"^\d{1,8}$")], Token] | None = None

    def numbered(self) -> list[tuple[str, int]]:
        """The tokens beside the words, and their numbers."""
        return [(token.content, int(at)) for at, token in (self.added_tokens_decoder or {}).items()]

    def handed_on(self) -> dict[str, Any]:
        """See the base class; what is a token is marked."""
        given = dict(self._given(_MARK))
        if self.added_tokens_decoder is not None:
            kept = self.added_tokens_decoder.items()
            given["added_tokens_decoder"] = {at: token.handed_on() for at, token in kept}
        return given


class Merges(_Read):
    """Of ``model`` in ``tokenizer.json``: pairs of words, or both in a text with a space between."""

    type: Literal["BPE"] = "BPE"
    merges: list[str] | list[Annotated[list[str], Field(min_length=2, max_length=2)]]

    def pairs(self) -> list[tuple[str, ...]]:
        """The merges, each of two words."""
        return [
            tuple(one.split(" ")) if isinstance(one, str) else tuple(one) for one in self.merges
        ]


class Whole(_Read):
    """Of ``tokenizer.json``, as far as ``CLIPTokenizer`` takes it itself."""

    model: Merges
    added_tokens: list[Numbered]


_NAMED: Final = frozenset(key for key in SpecialTokens.model_fields if key.endswith("_token"))


def _text(token: str | Token) -> str:
    return token.content if isinstance(token, Token) else token
