"""Is a base's tokenizer complete, and does it fit the text encoder?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.core.errors import UsageError, shown
from bench.core.json_files import read_object

__all__ = ["check_tokenizer"]


def check_tokenizer(folder: Path, rows: int) -> None:
    """Refuses a tokenizer that is not complete, or that has more words than the text encoder.

    Args:
        folder: The tokenizer's.
        rows: Of the text encoder's table of tokens.

    Raises:
        UsageError: in one line.
    """
    names = ("tokenizer.json", "vocab.json")
    whole, words = (folder / name for name in names)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).exists():
            read_object(folder / name)
    ids: list[Any] = []
    if whole.exists():
        data = read_object(whole)
        model, added = data.get("model"), data.get("added_tokens", [])
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
            raise UsageError(f"{whole}: model.vocab: expected the number of each token, got none")
        if not isinstance(added, list) or not all(isinstance(one, dict) for one in added):
            raise UsageError(f"{whole}: added_tokens: expected a list of objects")
        ids = [*model["vocab"].values(), *(one.get("id") for one in added)]
    if words.exists():
        ids += read_object(words).values()
    if not whole.exists() and not (words.exists() and (folder / "merges.txt").exists()):
        raise UsageError(
            f"{folder} is incomplete: expected {whole.name}, or vocab.json and merges.txt"
        )
    if odd := [one for one in ids if type(one) is not int or not 0 <= one < rows]:
        raise UsageError(
            f"{folder}: expected token numbers below {rows}, the rows of the text encoder's "
            f"table, got {shown(odd[0])}"
        )
