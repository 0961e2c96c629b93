"""Is a base's tokenizer complete, and does it fit the text encoder?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from bench.core.errors import UsageError, shown
from bench.core.json_files import read_object
from bench.model.pipeline.weights import is_there

__all__ = ["MERGES", "SETTINGS", "VOCABULARY", "WHOLE", "check_tokenizer"]

WHOLE: Final = "tokenizer.json"
"""A whole tokenizer; where it is there, a vocabulary and merges beside it are not read."""
VOCABULARY: Final = "vocab.json"
MERGES: Final = "merges.txt"
SETTINGS: Final = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def check_tokenizer(folder: Path, rows: int) -> list[Path]:
    """The files that are read of a tokenizer; refuses one that is not complete, or has too many words.

    Args:
        folder: The tokenizer's.
        rows: Of the text encoder's table of tokens.

    Raises:
        UsageError: in one line.
    """
    settings = [folder / name for name in SETTINGS if is_there(folder / name)]
    for path in settings:
        if read_object(path).get("fast_tokenizer_files"):
            raise UsageError(f"{path}: fast_tokenizer_files: expected none; only {WHOLE} is read")
    ids: list[Any]
    whole, words, merges = (folder / name for name in (WHOLE, VOCABULARY, MERGES))
    if is_there(whole):
        files = [whole]
        data = read_object(whole)
        model, added = data.get("model"), data.get("added_tokens", [])
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
            raise UsageError(f"{whole}: model.vocab: expected the number of each token, got none")
        if not isinstance(added, list) or not all(isinstance(one, dict) for one in added):
            raise UsageError(f"{whole}: added_tokens: expected a list of objects")
        ids = [*model["vocab"].values(), *(one.get("id") for one in added)]
    elif is_there(words) and is_there(merges):
        files = [words, merges]
        ids = list(read_object(words).values())
    else:
        raise UsageError(f"{folder} is incomplete: expected {WHOLE}, or {VOCABULARY} and {MERGES}")
    if odd := [one for one in ids if type(one) is not int or not 0 <= one < rows]:
        raise UsageError(
            f"{folder}: expected token numbers below {rows}, the rows of the text encoder's "
            f"table, got {shown(odd[0])}"
        )
    return [*settings, *files]
