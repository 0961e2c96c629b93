"""Work in micro-batches; halve them when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["MicroBatch"]

log = logging.getLogger(__name__)

# A CPU has no error of its own for this.
_NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)


@dataclass(slots=True)
class MicroBatch:
    """The number of rows worked on at once; it shrinks, and never changes results.

    Work that keeps a graph for gradients takes several times the memory of work that does not. So
    each has a size of its own: a gradient step that did not fit does not slow sampling down.

    So has decoding: a decoder takes more memory per row than the steps before it, which need not be done again.

    Attributes:
        size: Rows per chunk, without gradients.
        gradient_size: Rows per chunk, with gradients; at first as many.
        halvings: How often one of them had to shrink.
    """

    size: int
    gradient_size: int = 0
    halvings: int = 0
    _used: int | None = field(default=None, repr=False, compare=False)
    _decoding: MicroBatch | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.gradient_size = self.gradient_size or self.size

    def begin(self) -> None:
        """Starts a piece of work that :attr:`used` is about."""
        self._used = None

    @property
    def used(self) -> int:
        """The smallest size that work since :meth:`begin` ended with; where there was none, ``size``."""
        return self.size if self._used is None else self._used

    @property
    def decoding(self) -> MicroBatch:
        """The number of latents decoded at once; at first as many as :attr:`size`."""
        if self._decoding is None:
            self._decoding = MicroBatch(self.size)
        return self._decoding

    def map(self, n: int, work: Callable[[slice], Tensor]) -> Tensor:
        """Applies ``work`` to consecutive row slices and joins the results.

        When memory runs out the size is halved and the same rows are done again; ``work`` must
        therefore make its own generators. At a size of 1 the error is raised.
        """
        parts: list[Tensor] = []
        at = 0
        while at < n:
            size = self._size
            rows = slice(at, min(n, at + size))
            try:
                parts.append(work(rows))
            except RuntimeError as error:
                if size == 1 or not _no_memory(error):
                    raise
            else:
                at = rows.stop
                continue
            # Here, where the error no longer holds on to what did not fit.
            self._halve(size, rows.stop - rows.start)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if n:
            self._used = min(self._size, self._size if self._used is None else self._used)
        return torch.cat(parts)

    @property
    def _size(self) -> int:
        return self.gradient_size if torch.is_grad_enabled() else self.size

    def _halve(self, size: int, rows: int) -> None:
        smaller = max(1, min(size, rows) // 2)
        what = "with gradients" if torch.is_grad_enabled() else "without gradients"
        log.warning("out of memory with %d rows at once, %s; going on with %d", size, what, smaller)
        self.halvings += 1
        if torch.is_grad_enabled():
            self.gradient_size = smaller
        else:
            self.size = smaller


def _no_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(s in str(error) for s in _NO_MEMORY)
