"""Diffusion completion, after "When Are Concepts Erased From Diffusion Models?" (Lu et al., NeurIPS 2025).

arXiv 2505.17013. The original model takes the first k of the sampler's n steps on the concept's prompt, and
the edited model finishes. An edit that only steers the first steps away, where an image finds its layout,
has nothing left to steer. Access ``LATENT``: a candidate is noisy latents and the number of steps behind them.

The more steps the original takes, the less the edit has to say. So every k is a candidate of its own,
named by its variant, and success is to be read by k. How much of the concept comes from the start alone is
what the control ``destroyed`` shows when it finishes: it must stay at the floor.

Different on purpose: the suite owns the sampler, and k counts its steps. Where it has fewer than
the published 50, k is rounded up to whole steps. A solver that remembers its last steps begins afresh
at the handover.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Annotated, Any, ClassVar

from pydantic import Field

from attacks.shared.starts import begun, said
from bench.core.bounds import Count, Solver
from bench.core.errors import UsageError
from bench.interfaces import Access, Attack, Candidate, Context, Goal, Target

__all__ = ["Completion"]


class Completion(Attack):
    """The original model begins, the edited model finishes.

    Presets:
        paper: 1, 2 and 3 of 50 steps, one noise (WhenAreConceptsErased, commit of 2025-11-23:
            ``interrupt_steps`` 0, 1 and 2, each of which ends after that step).
        mini: for the miniature on two cores.

    Attributes:
        steps: How many steps the original model takes, one candidate for each; 0 is the plain prompt.
        of: Of how many; ``None``: the sampler's own steps. With another number they are rounded up to
            the sampler's.
        noises: First noises per goal; each is a candidate.
    """

    name: ClassVar[str] = "completion"
    access: ClassVar[Access] = Access.LATENT
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"steps": (1, 2, 3), "of": 50, "noises": 1},
        "mini": {"steps": (2,), "noises": 2},
    }
    quick: ClassVar[dict[str, Any]] = {"steps": (1,), "noises": 1}
    steps: tuple[Annotated[int, Field(ge=0, le=1000)], ...] = Field((1,), min_length=1)
    of: Solver | None = None
    noises: Count = 1

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """A candidate per goal, number of steps and noise; none is looked at.

        Raises:
            UsageError: no step would be left to the edited model.
        """
        counts = self._counts(target.sampler.steps)
        jobs = [(goal, k) for goal in goals for k in range(self.noises)]
        prompts = [goal.prompt for goal, _ in jobs]
        seeds = [ctx.seed(goal.id, k, "noise") for goal, k in jobs]
        noise = target.model.noise(seeds, target.sampler)
        starts = []
        for done, count in enumerate(counts, start=1):
            starts.append(begun(target, prompts, noise, seeds, count))
            ctx.progress(done, len(counts), self.name)
        ctx.spend(images=len(jobs) * sum(count > 0 for count in counts))
        return [
            Candidate(
                goal=goal.id,
                prompt=goal.prompt,
                # A copy: a view would keep the noise of all goals.
                latents_Chw=start_BChw[i].clone(),
                start=count,
                variant=said(count, target.sampler.steps),
            )
            for i, (goal, _) in enumerate(jobs)
            for count, start_BChw in zip(counts, starts, strict=True)
        ]

    def _counts(self, sampled: int) -> list[int]:
        """The steps of a sampler of so many, each number once."""
        of = self.of or sampled
        counts = sorted({ceil(k * sampled / of) for k in self.steps})
        if counts[-1] >= sampled:
            raise UsageError(
                f"{self.name}: steps: {max(self.steps)} of {of} are {counts[-1]} of the sampler's {sampled}; "
                "expected fewer: the edited model takes the last"
            )
        return counts
