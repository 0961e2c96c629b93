"""The plug point of attacks, and the values that pass between one and the harness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Self

from bench.core.bounds import Count
from bench.core.progress import Progress, silent
from bench.core.rng import Rng
from bench.core.spec import Spec
from bench.interfaces.concept import Concept, PromptSets
from bench.interfaces.judge import Judge

if TYPE_CHECKING:
    from torch import Tensor

    from bench.model.sampler import Sampler
    from bench.model.text_to_image import TextToImage

__all__ = ["Access", "Attack", "Candidate", "Goal", "Target", "Trace"]


class Access(IntEnum):
    """The access that an attacker has, weakest first."""

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
    """

    looks: tuple[float, ...] = ()
    changed: int = 0
    steps: int = 0
    budget: int = 0
    zero: int = 0
    bad: int = 0

    @property
    def late_gain(self) -> float | None:
        """How much the best own score rose over the last fifth of the looks.

        Missing where that says nothing: there was no budget of steps between the looks, as where
        finds are shown one after the other once they were made, or in a sampling of seeds; the
        search stopped early; or it looked fewer than six times, the plain prompt included, so that
        no look stands where the last fifth begins.
        """
        if len(self.looks) < 6 or not self.budget or self.steps < self.budget:
            return None
        return self.looks[-1] - self.looks[(len(self.looks) - 1) * 4 // 5]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A find of an attack for a goal: the harness samples it and a judge decides.

    Attributes:
        goal: :attr:`Goal.id`.
        prompt: Text to sample; always set for ``PROMPT`` access.
        states_LD: Text states to use instead of the encoded prompt (``EMBEDDING``).
        latents_Chw: Initial noise to start from (``LATENT``); it fixes the image, so the seed plays
            no part.
        own_score: The attack's own best view of its success, if it looked.
        queries: Images the attack looked at for this goal (the N of best-of-N).
        variant: Tells the candidates of one goal apart, e.g. the prompt set.
        trace: How the search went, if the attack keeps account of it.
    """

    goal: str
    prompt: str
    states_LD: Tensor | None = None
    latents_Chw: Tensor | None = None
    own_score: float | None = None
    queries: int = 0
    variant: str = ""
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The model under attack, and all that the attack may use.

    Attributes:
        model: The edited model, with its guidance and filters.
        sampler: The suite's sampler.
        surrogate: The attacker's own judge, never the one that decides.
        progress: Told of long work.
    """

    model: TextToImage
    sampler: Sampler
    surrogate: Judge
    progress: Progress = silent


class Attack(Spec, ABC):
    """An attack: one paper, one file.

    Attributes:
        access: What the attacker holds.
        gradients: It needs gradients through the edited model.
        prompt_sets: Which of a concept's prompt sets the goals are made from.
        goals: At most so many goals a prompt set; ``None`` takes the suite's number.
    """

    kind: ClassVar[str] = "attack"
    access: ClassVar[Access] = Access.PROMPT
    gradients: ClassVar[bool] = False
    control: ClassVar[bool] = False
    prompt_sets: PromptSets = ("name",)
    goals: Count | None = None

    @property
    def holds(self) -> Access:
        """``access``, unless what this one was given needs more."""
        return self.access

    def looks(self) -> int:
        """Images that it samples per goal while it searches, at most, for the budget of a suite; 0: none."""
        return 0

    def check(self, concepts: Sequence[Concept]) -> None:
        """Refuses what a user gave it, such as a file, when a plan is made: before anything runs.

        Args:
            concepts: What it will be run against.

        Raises:
            UsageError: in one line, with the place in the file.
        """

    def pinned(self) -> Self:
        """The attack as a plan keeps it: it holds the content of its files, and names what it holds.

        Raises:
            UsageError: a file is not usable.
        """
        return self

    def own_goals(self, concept: Concept) -> tuple[Goal, ...] | None:
        """The goals that it brings for a concept, in place of the concept's prompts; ``None``: none.

        Each is in one prompt set; the plan takes as many of the first as the suite asks for.
        """
        return None

    def remarks(self, concepts: Sequence[Concept]) -> tuple[str, ...]:
        """Lines that a reader of the results must know about what it was given.

        Args:
            concepts: Those of the suite.
        """
        return ()

    @abstractmethod
    def run(self, target: Target, goals: Sequence[Goal], *, rng: Rng) -> list[Candidate]:
        """Attacks all goals in one batch; a goal's candidates do not depend on the other goals.

        Returns:
            One or more candidates a goal.
        """
