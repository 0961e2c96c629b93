"""Whose turn it is: which items the rows of each batch take, where all are to be seen equally often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["in_turn"]


def in_turn(n: int, total: int, generator: torch.Generator) -> Tensor:
    """``total`` indices below ``n``, int64: all of them in a shuffled order, then in another, and so on."""
    cycles = [torch.randperm(n, generator=generator) for _ in range(-(-total // n))]
    return torch.cat(cycles)[:total]
