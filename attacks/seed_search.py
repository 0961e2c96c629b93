"""Control: the plain prompt on N seeds, the best by the surrogate.

After the ``seed_search`` control of UnlearnDiffAtk (Zhang et al., ECCV 2024). It needs to choose
the initial noise, so its access is ``LATENT``, and there is no held-out seed. The judge, which the
search never saw, is all that keeps it honest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from attacks.shared.search import best_of, noises_found
from bench.core.bounds import Count
from bench.interfaces import Access, Attack, Candidate, Context, Goal, Target

__all__ = ["SeedSearch"]


class SeedSearch(Attack):
    """Tries seeds.

    Attributes:
        tries: Seeds tried per goal, one image each.
    """

    name: ClassVar[str] = "seed_search"
    access: ClassVar[Access] = Access.LATENT
    control: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"tries": 2}
    tries: Count = 8

    def looks(self) -> int:
        """Images per goal."""
        return self.tries

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The best seed's noise for each goal."""
        jobs = [(goal, k) for goal in goals for k in range(self.tries)]
        seeds = [ctx.rng.seed(goal.id, k, "search") for goal, k in jobs]
        best = best_of(target, goals, [goal.prompt for goal, _ in jobs], seeds, ctx)
        noise = target.model.noise([seeds[at] for at, _ in best], target.sampler)
        return noises_found(goals, best, noise, self.tries)
