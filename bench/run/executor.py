"""Executors: who computes the cells of a plan. This one does it in this process; :mod:`bench.run.on_ray` on many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from bench.run.chains import Share
from bench.run.watching import Outcome, Watcher

if TYPE_CHECKING:
    from bench.model.text_to_image import TextToImage
    from bench.run.plan import Plan
    from bench.run.store import Store

__all__ = ["Executor", "Inline"]


class Executor(ABC):
    """Sees the cells of a plan into a store."""

    @abstractmethod
    def run(
        self, plan: Plan, store: Store, watcher: Watcher, *, share: Share | None = None
    ) -> Outcome:
        """Computes what is missing. A failed cell is recorded, and the others go on.

        Args:
            plan: What to compute.
            store: Where results are and go.
            watcher: Told of progress.
            share: Of several that are computed apart; ``None``: the whole.

        Returns:
            What was done.

        Raises:
            UsageError: a part of the suite does not suit the base, or the base is broken.
            OSError: the place is unfit; what is in the store is sound.
        """


class Inline(Executor):
    """Computes one cell after the other in this process.

    Args:
        base: The unedited model.
    """

    def __init__(self, base: TextToImage) -> None:
        self._base = base

    def run(
        self, plan: Plan, store: Store, watcher: Watcher, *, share: Share | None = None
    ) -> Outcome:
        """See the base class."""
        from bench.run.runner import run_plan

        return run_plan(plan, store, self._base, watcher, share=share)
