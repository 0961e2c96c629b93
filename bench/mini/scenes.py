"""Scenes of the miniature's world as tensors: which subject, colour, background and style, and where."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cache
from typing import Final

import torch
from torch import Tensor

from bench.mini.world import HEADS

__all__ = ["NONE", "Scenes", "held_out_table", "sample_scenes"]

NONE: Final = {head: len(names) for head, names in HEADS.items()}
"""The label "none of these" of each head."""

_WAVES: Final = 6  # sinusoids a texture field
_HELD_OUT_SHARE: Final = {"object": 0.1, "character": 0.32}  # a character has few combinations


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """N scenes. Integer label tensors are [N] (``NONE[head]`` means none); geometry is in pixels of a 64x64 image.

    Attributes:
        labels: head -> int64 [N].
        centre: [N, 2] x, y.
        scale: [N] radius of the subject.
        waves: [N, _WAVES, 4] random numbers in [0, 1) that fix the textures.
    """

    labels: dict[str, Tensor]
    centre: Tensor
    scale: Tensor
    waves: Tensor

    def __len__(self) -> int:
        """Number of scenes."""
        return self.scale.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Scenes:
        """The scenes at ``index`` (a slice, or an index or mask tensor)."""
        rest = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "labels"}
        return Scenes(labels={h: v[index] for h, v in self.labels.items()}, **rest)


@cache
def held_out_table() -> Tensor:
    """Which combinations of attributes no training image shows.

    Returns:
        bool [subjects, colours + 1, backgrounds, styles]; subjects are the objects, then the
        characters. They are a tenth of the objects' and a third of the characters'. A hash of the
        names chooses them, so that they do not depend on any seed.
    """
    subjects = HEADS["object"] + HEADS["character"]
    colours = (*HEADS["colour"], "none")
    table = torch.zeros(
        len(subjects), len(colours), len(HEADS["background"]), len(HEADS["style"]), dtype=torch.bool
    )
    for i, subject in enumerate(subjects):
        share = _HELD_OUT_SHARE["object" if subject in HEADS["object"] else "character"]
        for j, colour in enumerate(colours):
            for k, background in enumerate(HEADS["background"]):
                for m, style in enumerate(HEADS["style"]):
                    key = f"{subject}/{colour}/{background}/{style}".encode()
                    bucket = hashlib.blake2b(key, digest_size=4).digest()
                    table[i, j, k, m] = int.from_bytes(bucket, "big") < share * 2**32
    return table


def is_held_out(labels: dict[str, Tensor]) -> Tensor:
    """Bool [N]: the scene's combination is held out of training. Empty scenes never are."""
    objects = len(HEADS["object"])
    subject = torch.where(
        labels["object"] < objects, labels["object"], objects + labels["character"]
    )
    empty = subject >= objects + len(HEADS["character"])
    table = held_out_table()
    hit = table[
        subject.clamp(max=table.shape[0] - 1),
        labels["colour"],
        labels["background"],
        labels["style"],
    ]
    return hit & ~empty


def _draw(n: int, generator: torch.Generator, empty_share: float, character_share: float) -> Scenes:
    def integers(high: int) -> Tensor:
        return torch.randint(high, (n,), generator=generator)

    kind = torch.rand(n, generator=generator)
    is_empty = kind < empty_share
    is_character = (kind >= empty_share) & (kind < empty_share + character_share)
    is_object = ~is_empty & ~is_character
    labels = {h: integers(len(names)) for h, names in HEADS.items()}
    labels["object"] = torch.where(is_object, labels["object"], NONE["object"])
    labels["colour"] = torch.where(is_object, labels["colour"], NONE["colour"])
    labels["character"] = torch.where(is_character, labels["character"], NONE["character"])
    return Scenes(
        labels=labels,
        centre=32 + 10 * (torch.rand(n, 2, generator=generator) - 0.5),
        scale=18 + 4 * torch.rand(n, generator=generator),
        waves=torch.rand(n, _WAVES, 4, generator=generator),
    )


def sample_scenes(
    n: int,
    generator: torch.Generator,
    *,
    held_out: bool | None = False,
    empty_share: float = 0.05,
    character_share: float = 0.2,
) -> Scenes:
    """Draws scenes at random.

    Args:
        n: How many.
        generator: CPU generator; the only source of randomness.
        held_out: ``False``: only training combinations; ``True``: only held-out ones (then none is
            empty); ``None``: any.
        empty_share: Share of scenes with no subject.
        character_share: Share of scenes with a character.
    """
    if held_out is None:
        return _draw(n, generator, empty_share, character_share)
    parts: list[Scenes] = []
    have = 0
    while have < n:
        pool = _draw(
            2 * n + 64 if not held_out else 12 * n + 64, generator, empty_share, character_share
        )
        part = pool[is_held_out(pool.labels) == held_out]
        parts.append(part)
        have += len(part)
    merged = Scenes(
        labels={h: torch.cat([p.labels[h] for p in parts]) for h in HEADS},
        centre=torch.cat([p.centre for p in parts]),
        scale=torch.cat([p.scale for p in parts]),
        waves=torch.cat([p.waves for p in parts]),
    )
    return merged[:n]
