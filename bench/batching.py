"""Work in micro-batches; halve them when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MicroBatch"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class MicroBatch:
    """The number of rows worked on at once; it shrinks, and never changes results.

    Attributes:
        size: Rows a chunk.
        halvings: How often it had to shrink.
    """

    size: int
    halvings: int = 0

    def map(self, n: int, work: Callable[[slice], Tensor]) -> Tensor:
        """Applies ``work`` to consecutive row slices and joins the results.

        On ``torch.OutOfMemoryError`` the size is halved and the same rows are done again; ``work``
        must therefore make its own generators. At a size of 1 the error is raised.
        """
        parts: list[Tensor] = []
        at = 0
        while at < n:
            rows = slice(at, min(n, at + self.size))
            try:
                parts.append(work(rows))
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                smaller = max(1, min(self.size, rows.stop - rows.start) // 2)
                log.warning(
                    "out of memory with %d rows at once; going on with %d", self.size, smaller
                )
                self.size, self.halvings = smaller, self.halvings + 1
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            at = rows.stop
        return torch.cat(parts)
