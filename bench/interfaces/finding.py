"""The values that pass between an attack and the harness: what it tries, on what, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from bench.interfaces.concept import Concept
from bench.interfaces.judge import Judge
from bench.model.conditioning import Conditioning

if TYPE_CHECKING:
    from torch import Tensor

    from bench.model.sampler import Sampler
    from bench.model.text_to_image import TextToImage

__all__ = ["Access", "Candidate", "Goal", "Target", "Trace"]


class Access(IntEnum):
    """The access that an attacker has, weakest first; each holds what those before it do.

    A candidate carries no more. Any has a prompt, and ``EMBEDDING`` may replace its text states.
    ``LATENT`` may choose the initial noise, or noisy latents to start from part way. ``WEIGHTS``
    may change the model's parameters a little.
    """

    PROMPT = 0
    EMBEDDING = 1
    LATENT = 2
    WEIGHTS = 3


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing an attack tries: make the edited model show ``concept``, starting from ``prompt``.

    Attributes:
        id: Unique in the cell; the cluster of the statistics.
        prompt_set: The set the prompt came from.
    """

    id: str
    concept: Concept
    prompt: str
    prompt_set: str = "name"


@dataclass(frozen=True, slots=True)
class Trace:
    """How the search for one goal went: what tells a strong defence from an attack that failed.

    Attributes:
        looks: Best own score after each look at images, the plain prompt's first.
        changed: Prompts whose tokens did not survive decoding and tokenising; the text was judged.
        steps: Gradient steps taken for the goal.
        budget: Gradient steps it was allowed; 0 for a search that takes none.
        zero: Steps whose gradient was zero throughout.
        bad: Steps whose gradient was not finite.
        images: Images of the goal that were seen up to each look, if the attack counts them.
    """

    looks: tuple[float, ...] = ()
    changed: int = 0
    steps: int = 0
    budget: int = 0
    zero: int = 0
    bad: int = 0
    images: tuple[int, ...] = ()

    @property
    def late_gain(self) -> float | None:
        """How much the best own score rose over the last fifth of the looks.

        Missing where that says nothing. There may be no budget of steps between the looks: finds
        are shown one after the other once they were made, or seeds are sampled. The search may have
        stopped early. Or it looked fewer than six times, the plain prompt included, so that no look
        stands where the last fifth begins.
        """
        if len(self.looks) < 6 or not self.budget or self.steps < self.budget:
            return None
        return self.looks[-1] - self.looks[(len(self.looks) - 1) * 4 // 5]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A find of an attack for a goal: the harness samples it and a judge decides.

    ``own_score`` and ``queries`` follow one rule. An attack that shows the surrogate images of a
    goal says how many, and how well, from 0 to 1, the candidate did. An attack that looks at none
    leaves both as they are. A score that no image gave, such as a loss, is no ``own_score``: it
    belongs in the trace.

    Attributes:
        goal: :attr:`Goal.id`.
        prompt: Text to sample; always set for ``PROMPT`` access.
        states_LD: Text states to use instead of the encoded prompt (``EMBEDDING``).
        pooled_D: The pooled vector that goes with them, on a base that has one.
        latents_Chw: Initial noise to start from (``LATENT``); it fixes the image, so the seed plays
            no part.
        start: How many of the sampler's steps are done (``LATENT``): ``latents_Chw`` are then noisy latents
            ``sqrt(a) x + sqrt(1 - a) e`` at the time of the next. At least one is left to the edited model.
        weights: ``component.name`` -> a difference to add to that parameter of the edited model
            (``WEIGHTS``). Goals that share a difference share the mapping: it is stored once. See
            :data:`bench.interfaces.answers.MOST_VALUES` for how large it may be.
        own_score: The attack's own view of its success, from 0 to 1; ``None`` where ``queries`` is 0.
        queries: Images the attack looked at for this goal (the N of best-of-N).
        variant: Tells the candidates of one goal apart, e.g. the prompt set.
        trace: How the search went, if the attack keeps account of it.
    """

    goal: str
    prompt: str
    states_LD: Tensor | None = None
    latents_Chw: Tensor | None = None
    weights: Mapping[str, Tensor] | None = None
    own_score: float | None = None
    queries: int = 0
    variant: str = ""
    trace: Trace | None = None
    pooled_D: Tensor | None = None
    start: int = 0

    @property
    def conditioning(self) -> Conditioning | None:
        """One row, to sample instead of the encoded prompt; ``None`` where the prompt is what is tried."""
        if self.states_LD is None:
            return None
        pooled = None if self.pooled_D is None else self.pooled_D[None]
        return Conditioning(self.states_LD[None], pooled)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """The model under attack, and all that the attack may use.

    Attributes:
        model: The edited model, with its guidance and filters.
        sampler: The suite's sampler.
        surrogate: Guides the search; it is never one of the judges that decide.
    """

    model: TextToImage
    sampler: Sampler
    surrogate: Judge
