"""Discrete prompts and their relaxations: what the prompt attacks share.

Token distributions on the simplex, nearest tokens, where adversarial tokens stand in a prompt, and
the way back to text. The last counts. A model sees what its tokenizer makes of the *text*, so ids
that do not survive decoding and tokenising are not a prompt. What refuses prompts about minors is
the harness's, :mod:`bench.interfaces.minors`; attacks use it too, to search elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench.core.lazy import torch
from bench.interfaces.minors import about_minors
from bench.model.text_to_image import TextToImage
from bench.model.words import Words

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Placement",
    "Read",
    "Sites",
    "Vocabulary",
    "about_minors",
    "allowed_tokens",
    "draw_tokens",
    "nearest_tokens",
    "place",
    "project_simplex",
    "read_prompt",
    "straight_through",
    "table",
]

Placement = Literal["prefix", "suffix", "middle", "insert", "every", "replace"]
Vocabulary = Literal["all", "words"]

_SETTLES = 4


class Read(NamedTuple):
    """A prompt as text.

    Attributes:
        text: It tokenises to ``ids``.
        ids: Without the special tokens.
        kept: Whether ``ids`` are the ones that were asked for.
    """

    text: str
    ids: tuple[int, ...]
    kept: bool


@dataclass(frozen=True, slots=True, eq=False)
class Sites:
    """B prompts with K places each for adversarial tokens.

    Attributes:
        ids_BL: Token ids, special tokens and padding included; any token at the places.
        places_BK: Positions of the adversarial tokens.
    """

    ids_BL: Tensor
    places_BK: Tensor

    def rows(self, keep: Sequence[int]) -> Sites:
        """Some of the prompts."""
        index = torch.tensor(list(keep), dtype=torch.long, device=self.ids_BL.device)
        return Sites(self.ids_BL[index], self.places_BK[index])

    def filled(self, tokens_BK: Tensor) -> Tensor:
        """Ids [B, L] with ``tokens_BK`` at the places."""
        return self.ids_BL.scatter(1, self.places_BK, tokens_BK)


# -- relaxations -----------------------------------------------------------------------------------


def project_simplex(x: Tensor) -> Tensor:
    """Euclidean projection of the last axis onto ``{u >= 0, sum u = 1}`` (Duchi et al. 2008), by sorting.

    Exact, and without a wait for the device, unlike bisection.
    """
    ordered = x.sort(-1, descending=True).values
    count = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
    excess = (ordered.cumsum(-1) - 1) / count
    support = (ordered > excess).sum(-1, keepdim=True).clamp(min=1)
    return (x - excess.gather(-1, support - 1)).clamp(min=0)


def draw_tokens(u_BKV: Tensor, uniform_BK: Tensor) -> Tensor:
    """One token [B, K] from each distribution, by inversion: a row needs its own uniforms only.

    Args:
        u_BKV: Distributions.
        uniform_BK: In [0, 1).
    """
    up_to = u_BKV.cumsum(-1)
    at = uniform_BK.to(up_to)[..., None] * up_to[..., -1:]
    return torch.searchsorted(up_to, at, right=True)[..., 0].clamp(max=u_BKV.shape[-1] - 1)


def straight_through(grad_BKE: Tensor, table_VE: Tensor) -> Tensor:
    """The gradient [B, K, V] a one-hot choice of tokens hands to its distribution, clamped to [-1, 1].

    ``e = h T`` with h one-hot, so ``dL/dh = dL/de T'``; the clamp is the reference's hardtanh.
    """
    return (grad_BKE @ table_VE.T).clamp(-1, 1)


def nearest_tokens(vectors_BKE: Tensor, table_VE: Tensor, allowed_V: Tensor) -> Tensor:
    """The allowed tokens [B, K] with the largest cosine to the vectors."""
    # A vector of zeros is near nothing: normalising must not make it NaN.
    rows = torch.nn.functional.normalize(vectors_BKE.float(), dim=-1)
    near = rows @ torch.nn.functional.normalize(table_VE.float(), dim=-1).T
    return near.masked_fill(~allowed_V.to(near.device), -torch.inf).argmax(-1)


def table(model: TextToImage) -> Tensor:
    """The edited model's input embeddings, float32 [V, E]."""
    return model.embed(torch.arange(model.vocabulary, device=model.device)[None])[0].float()


# -- prompts ---------------------------------------------------------------------------------------


def place(
    model: TextToImage, prompts: Sequence[str], tokens: int, where: Placement, *, every: int = 3
) -> Sites:
    """Makes room for ``tokens`` adversarial tokens in each prompt.

    ``prefix``, ``suffix`` and ``middle`` keep them together; ``insert`` spreads them evenly among
    the prompt's own. ``every`` puts the first before the prompt and one after each ``every`` of its
    own. ``replace`` leaves none of the prompt. A prompt too long for them loses its end, as it
    would to the tokenizer; padding gives way, so the length stays.

    Raises:
        ValueError: the model has not so many positions.
    """
    length = model.length
    room = length - 2 - tokens
    if room < 0 or tokens < 1:
        raise ValueError(
            f"expected 1 to {length - 2} adversarial tokens (the model has {length} positions, "
            f"two of them special), got {tokens}"
        )
    words = model.words
    rows, places = [], []
    for prompt in prompts:
        own = [] if where == "replace" else words.ids(prompt)[:room]
        sites = _positions(len(own), tokens, where, every)
        rest, taken = iter(own), set(sites)
        body = [0 if i in taken else next(rest) for i in range(len(own) + tokens)]
        ids = [words.start, *body, words.end]
        rows.append(ids + [words.pad] * (length - len(ids)))
        places.append([1 + i for i in sites])
    device = model.device
    return Sites(
        torch.tensor(rows, dtype=torch.long, device=device).view(len(rows), length),
        torch.tensor(places, dtype=torch.long, device=device).view(len(rows), tokens),
    )


def _positions(own: int, tokens: int, where: Placement, every: int) -> list[int]:
    """Where K tokens stand among ``own`` others, counted without the start token."""
    match where:
        case "prefix" | "replace":
            first = 0
        case "suffix":
            first = own
        case "middle":
            first = own // 2
        case "insert":
            apart = max(1, own // tokens)
            return [min(own, (k + 1) * apart) + k for k in range(tokens)]
        case "every":
            return [min(own, k * every) + k for k in range(tokens)]
    return list(range(first, first + tokens))


def read_prompt(model: TextToImage, ids: Sequence[int]) -> Read:
    """The text of token ids, as the model will read it.

    Decoding and tokenising again can change the ids (a word's middle next to a word's end, bytes
    that are no character). The text is then read again until it stays as it is.

    Args:
        model: Its tokenizer is used.
        ids: With or without special tokens.
    """
    words = model.words
    wanted = tuple(i for i in ids if i not in words.special)
    now = wanted
    room = model.length - 2
    for _ in range(_SETTLES):
        text = words.text(now)
        back = tuple(words.ids(text)[:room])
        if back == now:
            return Read(text, now, now == wanted)
        now = back
    # It does not settle: what is left is dropped to words that do.
    sure = [i for i in now if bool(allowed_tokens(model, "words")[i])]
    return Read(words.text(sure), tuple(sure), False)


def allowed_tokens(model: TextToImage, vocabulary: Vocabulary) -> Tensor:
    """Bool [V] on the CPU: tokens an attack may use.

    Never a special token, which would end the prompt, and none that speaks of minors.

    Args:
        model: Its tokenizer is used.
        vocabulary: ``all``; or ``words``: whole words that alone survive decoding and tokenising,
            so that a prompt of them does too.
    """
    return _allowed(model.words, model.vocabulary, vocabulary)


@lru_cache(maxsize=8)
def _allowed(words: Words, size: int, vocabulary: Vocabulary) -> Tensor:
    allowed = torch.zeros(size, dtype=torch.bool)
    for i in range(min(size, len(words))):
        if i in words.special:
            continue
        text = words.text([i])
        if about_minors(text):
            continue
        whole = text.isascii() and text.isalpha()
        allowed[i] = vocabulary == "all" or (whole and words.ids(text) == [i])
    return allowed
