"""Floating point operations of a piece of work."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["counting_flops", "operations"]


class _Counter(TorchDispatchMode):
    """Adds up what torch's formulas say of each operation.

    Torch's own ``FlopCounterMode`` also asks in which module an operation is. Its hooks keep
    every graph until it ends: at Stable Diffusion's size they filled an H200.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._known: dict[object, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            # A formula takes longer than a small operation, and the same shapes come again and again.
            key = (func, _shapes((*args, *(kwargs or {}).items(), out)))
            if key not in self._known:
                self._known[key] = formula(*args, **(kwargs or {}), out_val=out)
            self.total += self._known[key]
        return out


def _shapes(values: Any) -> Hashable:
    """The part of an argument that a formula reads: a tensor's shape, and anything else as it is."""
    if isinstance(values, (list, tuple)):
        return tuple(_shapes(value) for value in values)
    return ("tensor", *values.shape) if isinstance(values, Tensor) else values


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
