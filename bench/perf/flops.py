"""Floating point operations of a piece of work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["counting_flops", "operations"]


class _Counter(TorchDispatchMode):
    """Adds up what torch's formulas say of each operation.

    Torch's own ``FlopCounterMode`` also asks in which module an operation is, and its hooks keep
    every graph until it ends: at Stable Diffusion's size they filled an H200.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


@contextmanager
def counting_flops() -> Iterator[Callable[[], int]]:
    """Counts FLOPs of matrix products, convolutions and attention, forward and backward; yields the count so far.

    Attention is run as plain products meanwhile: fused kernels compute some of it twice, and not
    all of them are counted.
    """
    with sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
        yield lambda: counter.total


def operations(work: Callable[[], object]) -> int:
    """FLOPs of a piece of work; see :func:`counting_flops`."""
    with counting_flops() as so_far:
        work()
        return so_far()
