"""The closed form behind MACE: which tokens of two prompts say the same, and a matrix that answers as it should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["aligned", "refined"]

_RESOLUTION: Final = 1e-7
"""Of float32: below it, the published code has no digits of a singular system."""


def aligned(old: Sequence[int], new: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """Places of two texts that say the same: common start, common end, and padding; never what differs.

    Args:
        old: Token ids from the start token to the end token.
        new: Likewise.
        length: Of both with their padding.
    """
    shorter = min(len(old), len(new))
    start = next((k for k in range(shorter) if old[k] != new[k]), shorter)
    rest = shorter - start
    end = next((k for k in range(rest) if old[-1 - k] != new[-1 - k]), rest)
    padding = range(length - max(len(old), len(new)))
    one, other = (
        [*range(start), *range(len(ids) - end, len(ids)), *(len(ids) + k for k in padding)]
        for ids in (old, new)
    )
    return one, other


def refined(W: Tensor, wanted: Tensor, seen_DD: Tensor, lam: float) -> Tensor:
    """``(lam W + wanted) (lam I + seen)^-1``; with lam = 0, W where nothing was seen.

    Args:
        W: [out, D], float64.
        wanted: Sum of v x^T, [out, D], with v what the matrix should make of x.
        seen_DD: Sum of x x^T.
        lam: Weight of staying at W.
    """
    missing = wanted - W @ seen_DD
    eye = torch.eye(len(seen_DD), dtype=W.dtype, device=W.device)
    if lam:
        return W + torch.linalg.solve(lam * eye + seen_DD, missing.T).T
    return W + missing @ torch.linalg.pinv(seen_DD, rtol=_RESOLUTION, hermitian=True)
