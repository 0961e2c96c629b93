"""The miniature's byte-pair vocabulary, trained on its captions and stored in CLIP's file format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

__all__ = ["train_tokenizer"]

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
_PIECES = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def train_tokenizer(lines: Sequence[str], folder: Path, *, merges: int, length: int) -> Any:
    """Learns the merges and writes a tokenizer folder.

    The vocabulary is laid out as CLIP's: 256 bytes, the same bytes at the end of a word, the
    merges, then the two special tokens. Padding is the end token.

    Args:
        lines: Training text.
        folder: Where ``vocab.json``, ``merges.txt`` and the configuration go.
        merges: At most so many merges.
        length: Sequence length of the model.

    Returns:
        The ``CLIPTokenizer``.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 2 * len(alphabet) + merges,
        initial_alphabet=alphabet,
        # Ties between pairs go by id, and bytes at the end of a word would get theirs in the order
        # of a random hash.
        special_tokens=[*alphabet, *(a + "</w>" for a in alphabet)],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(lines, trainer)
    state = json.loads(learner.to_str())
    pairs = [
        tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["model"]["merges"]
    ][:merges]
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *("".join(p) for p in pairs), BOS, EOS]
    unique = list(dict.fromkeys(tokens))
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: index for index, token in enumerate(unique)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *(" ".join(p) for p in pairs)]) + "\n"
    )
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=length
    )
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
