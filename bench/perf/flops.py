"""Floating point operations of a piece of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["counting_flops", "operations"]


@contextmanager
def counting_flops() -> Iterator[Callable[[], int]]:
    """Counts FLOPs of matrix products, convolutions and attention, forward and backward; yields the count so far.

    Attention is run as plain products meanwhile: fused kernels compute some of it twice, and not
    all of them are counted.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield lambda: int(counter.get_total_flops())


def operations(work: Callable[[], object]) -> int:
    """FLOPs of a piece of work; see :func:`counting_flops`."""
    with counting_flops() as so_far:
        work()
        return so_far()
