"""Random streams by name: no global seed, no stream that depends on what ran before it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.core.lazy import torch

__all__ = ["Rng", "generator_for", "initial_values", "normal_rows", "seed_for"]


def seed_for(*key: object) -> int:
    """A 63-bit seed from a key, the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(*key: object) -> torch.Generator:
    """A CPU generator seeded by ``key`` (see :func:`seed_for`)."""
    return torch.Generator().manual_seed(seed_for(*key))


@dataclass(frozen=True, slots=True)
class Rng:
    """Named random streams under one key; asking twice for the same name gives the same stream."""

    key: tuple[object, ...]

    def seed(self, *name: object) -> int:
        """A 63-bit seed."""
        return seed_for(*self.key, *name)

    def generator(self, *name: object) -> torch.Generator:
        """A fresh CPU generator."""
        return torch.Generator().manual_seed(self.seed(*name))

    def child(self, *name: object) -> Rng:
        """The streams below ``name``."""
        return Rng((*self.key, *name))


@contextmanager
def initial_values(seed: int) -> Iterator[None]:
    """Networks built inside draw their first weights from ``seed``; the global stream is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 (inside a fork: it leaks nowhere)
        yield


def normal_rows(shape: Sequence[int], seeds: Sequence[int]) -> torch.Tensor:
    """Standard normal noise with one generator per row.

    Args:
        shape: Shape of a row.
        seeds: One per row.

    Returns:
        float32 [len(seeds), *shape] on the CPU; row i depends on ``seeds[i]`` alone.
    """
    rows = [torch.randn(*shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(rows) if rows else torch.empty(0, *shape)
