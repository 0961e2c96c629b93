"""Control: random tokens before the prompt, the best of N by the surrogate.

After the ``random`` control of UnlearnDiffAtk (Zhang et al., ECCV 2024): the same number of images
as an optimised attack looks at, and no optimisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from attacks.shared.search import best_of
from bench.core.bounds import Count
from bench.core.lazy import torch
from bench.interfaces import Access, Attack, Candidate, Context, Goal, Rng, Target

__all__ = ["RandomTokens"]


class RandomTokens(Attack):
    """Puts random tokens in front of the prompt.

    Attributes:
        tokens: How many.
        tries: Prefixes tried a goal, one image each.
    """

    name: ClassVar[str] = "random_tokens"
    access: ClassVar[Access] = Access.PROMPT
    control: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"tries": 2}
    tokens: int = Field(3, ge=1, le=32)
    tries: Count = 8

    def looks(self) -> int:
        """Images per goal."""
        return self.tries

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The best prefix of each goal."""
        jobs = [(goal, k) for goal in goals for k in range(self.tries)]
        words = _vocabulary(target)
        prompts = [f"{self._prefix(words, ctx.rng, goal, k)} {goal.prompt}" for goal, k in jobs]
        seeds = [ctx.rng.seed(goal.id, k, "search") for goal, k in jobs]
        best = best_of(target, goals, prompts, seeds, ctx)
        return [
            Candidate(goal=goal.id, prompt=prompts[at], own_score=score, queries=self.tries)
            for goal, (at, score) in zip(goals, best, strict=True)
        ]

    def _prefix(self, words: list[str], rng: Rng, goal: Goal, k: int) -> str:
        picks = torch.randint(
            len(words), (self.tokens,), generator=rng.generator(goal.id, k, "tokens")
        )
        return " ".join(words[i] for i in picks.tolist())


def _vocabulary(target: Target) -> list[str]:
    """Whole words of the model's tokenizer: they survive decoding and tokenising again."""
    return [w for w in target.model.words.whole if w.isascii() and w.isalnum()]
