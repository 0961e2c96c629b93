"""Other shapes of a task vector: parts of it, averages, and what is left beside other concepts' vectors.

Ours. Each is a guess at what of a vector carries the concept and what only costs; the claim ``shapes`` of
``tvc-bench paper`` tries them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.core.lazy import torch
from tvc.task_vector import TaskVector, block_of

__all__ = ["averaged", "by_block", "largest", "low_rank", "orthogonal"]


def averaged(vectors: Sequence[TaskVector]) -> TaskVector:
    """The mean of vectors, such as those of several training seeds.

    Raises:
        ValueError: there is none, or they belong to different bases.
    """
    if not vectors:
        raise ValueError("expected at least one task vector to average, got none")
    total = vectors[0]
    for other in vectors[1:]:
        total = total + other
    return (1 / len(vectors)) * total


def largest(vector: TaskVector, share: float) -> TaskVector:
    """The vector with all but its largest entries at zero.

    Args:
        vector: One threshold holds for all its tensors.
        share: Of the entries that stay, in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"expected a share in (0, 1], got {share}")
    sizes = torch.cat([d.abs().flatten() for d in vector.deltas.values()])
    least = sizes.sort(descending=True).values[max(1, round(share * len(sizes))) - 1]
    kept = {
        n: torch.where(d.abs() >= least, d, torch.zeros_like(d)) for n, d in vector.deltas.items()
    }
    return TaskVector(vector.base, kept)


def low_rank(vector: TaskVector, rank: int) -> TaskVector:
    """The vector with each matrix at its best approximation of a rank.

    A convolution is the matrix of its output channels; a bias or a norm's scale stays.
    """
    if rank < 1:
        raise ValueError(f"expected a rank of at least 1, got {rank}")
    kept = {}
    for name, delta in vector.deltas.items():
        if delta.ndim < 2:
            kept[name] = delta
            continue
        u, s, v = torch.linalg.svd(delta.flatten(1).double(), full_matrices=False)
        near = (u[:, :rank] * s[:rank]) @ v[:rank]
        kept[name] = near.view_as(delta).float()
    return TaskVector(vector.base, kept)


def orthogonal(vector: TaskVector, others: Sequence[TaskVector]) -> TaskVector:
    """The part of a vector beside the span of others: it moves nothing along them.

    Inner products are over all parameters together.
    """
    names = sorted(vector.deltas)
    flat = _flat(vector, names)
    basis: list[torch.Tensor] = []
    for other in others:
        row = _flat(other, names)
        for known in basis:
            row = row - (row @ known) * known
        length = float(row.norm())
        if length > 1e-12:
            basis.append(row / length)
    for known in basis:
        flat = flat - (flat @ known) * known
    kept, at = {}, 0
    for name in names:
        delta = vector.deltas[name]
        kept[name] = flat[at : at + delta.numel()].view_as(delta).float()
        at += delta.numel()
    return TaskVector(vector.base, kept)


def by_block(vector: TaskVector, factors: Mapping[str, float]) -> TaskVector:
    """The vector with the tensors of each block times a factor; 1 for a block that is not named.

    Args:
        vector: Its blocks are those of :func:`tvc.task_vector.block_of`.
        factors: Block -> factor.

    Raises:
        ValueError: a block is not there.
    """
    blocks = {block_of(name) for name in vector.deltas}
    if unknown := sorted(factors.keys() - blocks):
        raise ValueError(f"no block {unknown[0]!r}; this vector has: {', '.join(sorted(blocks))}")
    return TaskVector(
        vector.base, {n: d * factors.get(block_of(n), 1.0) for n, d in vector.deltas.items()}
    )


def _flat(vector: TaskVector, names: Sequence[str]) -> torch.Tensor:
    missing = [n for n in names if n not in vector.deltas]
    if missing:
        raise ValueError(f"expected vectors over the same parameters, but one lacks {missing[0]}")
    return torch.cat([vector.deltas[n].flatten().double() for n in names])
