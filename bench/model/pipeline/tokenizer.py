"""Is a base's tokenizer complete, does it fit the text encoder, and can it be made?

Its words are read by the library that makes it, ``tokenizers``, which takes little time to import. Its settings are
held to what ``CLIPTokenizer`` takes, and no other key is handed on: transformers would take a second to import.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.core.errors import UsageError, in_one_line, shown
from bench.core.json_files import read_object
from bench.model.pipeline.configs import validated
from bench.model.pipeline.tokens import DEFAULTS, SpecialTokens, TokenizerConfig, Whole
from bench.model.pipeline.weights import is_there

__all__ = ["MERGES", "SETTINGS", "VOCABULARY", "WHOLE", "TokenizerFiles", "check_tokenizer"]

WHOLE: Final = "tokenizer.json"
"""A whole tokenizer; where it is there, a vocabulary and merges beside it are not read."""
VOCABULARY: Final = "vocab.json"
MERGES: Final = "merges.txt"
SETTINGS: Final = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_END_OF_WORD: Final = "</w>"


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer that was found fit, from its files alone.

    Attributes:
        files: Those that are read.
        handed_on: What the libraries are given of each file of settings.
        words: The number of each token.
    """

    files: tuple[Path, ...]
    handed_on: Mapping[Path, Mapping[str, Any]]
    words: Mapping[str, int]


def check_tokenizer(folder: Path, rows: int) -> TokenizerFiles:
    """The tokenizer in a folder; refuses one that is not complete, cannot be made, or has too many words.

    Args:
        folder: The tokenizer's.
        rows: Of the text encoder's table of tokens.

    Raises:
        UsageError: in one line.
    """
    settings = {path: read_object(path) for name in SETTINGS if is_there(path := folder / name)}
    for path, data in settings.items():
        if data.get("fast_tokenizer_files"):
            raise UsageError(f"{path}: fast_tokenizer_files: expected none; only {WHOLE} is read")
    config_file, special_file, more_file = (folder / name for name in SETTINGS)
    config = validated(TokenizerConfig, settings.get(config_file, {}), config_file)
    special = validated(SpecialTokens, settings.get(special_file, {}), special_file)
    added: list[tuple[str, Any]] = [*settings.get(more_file, {}).items(), *config.numbered()]
    whole, vocabulary, merges = (folder / name for name in (WHOLE, VOCABULARY, MERGES))
    if is_there(whole):
        files = [whole]
        words, more = _whole(whole)
        added += more
    elif is_there(vocabulary) and is_there(merges):
        files = [vocabulary, merges]
        words = read_object(vocabulary)
        with _made(folder):
            _pairs(str(vocabulary), str(merges))
    else:
        raise UsageError(f"{folder} is incomplete: expected {WHOLE}, or {VOCABULARY} and {MERGES}")
    ids = [*words.values(), *(number for _, number in added)]
    if odd := [one for one in ids if type(one) is not int or not 0 <= one < rows]:
        raise UsageError(
            f"{folder}: expected token numbers below {rows}, the rows of the text encoder's "
            f"table, got {shown(odd[0])}"
        )
    found = {**words, **dict(added)}
    # A map of special tokens is read only where no tokens are numbered beside the settings.
    named = config.named() | ({} if config.added_tokens_decoder is not None else special.named())
    for key, token in {**DEFAULTS, **named}.items():
        if key in DEFAULTS and token not in found:
            raise UsageError(f"{folder}: {key}: expected one of its tokens, got {shown(token)}")
    every = {*found, *named.values(), *config.extra(), *special.extra()}
    if len(every) > rows:
        raise UsageError(
            f"{folder}: expected at most {rows} tokens, the rows of the text encoder's table, "
            f"got {len(every)}"
        )
    given = {config_file: config.handed_on(), special_file: special.handed_on()}
    return TokenizerFiles(
        files=(*settings, *files),
        handed_on={path: data for path, data in given.items() if path in settings},
        words=found,
    )


def _whole(path: Path) -> tuple[Mapping[str, Any], list[tuple[str, Any]]]:
    """The words of a whole tokenizer and the tokens beside them, which are read as ``CLIPTokenizer`` reads them.

    That takes the words and merges from it, the padding and the truncation, and no more. But the rest is read too.
    """
    data = read_object(path)
    model = data.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise UsageError(f"{path}: model.vocab: expected the number of each token, got none")
    whole = validated(Whole, data, path)
    words = model["vocab"]
    if odd := [number for number in words.values() if type(number) is not int]:
        raise UsageError(
            f"{path}: model.vocab: expected a number of each token, got {shown(odd[0])}"
        )
    with _made(path):
        import tokenizers

        bare = {**data, "added_tokens": [], "model": {**model, "vocab": {}, "merges": []}}
        read = tokenizers.Tokenizer.from_str(json.dumps(bare))
        _pairs(words, whole.model.pairs())
        if read.truncation is not None:
            read.enable_truncation(**read.truncation)
        if read.padding is not None:
            read.enable_padding(**read.padding)
    return words, [(token.content, token.id) for token in whole.added_tokens]


def _pairs(words: Any, merges: Any) -> None:
    """Makes what holds words and merges, given or named by their files, as ``CLIPTokenizer`` does."""
    from tokenizers.models import BPE

    BPE(vocab=words, merges=merges, continuing_subword_prefix="", end_of_word_suffix=_END_OF_WORD)


@contextmanager
def _made(path: Path) -> Iterator[None]:
    """Turns whatever the library raises over a tokenizer's files into one line."""
    try:
        yield
    except Exception as error:  # plain ones, of any kind of mistake
        raise UsageError(f"{path}: expected a tokenizer, got {in_one_line(error)}") from error
