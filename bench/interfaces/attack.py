"""The plug point of attacks: what an author writes, and the one door that everybody else goes through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self, final

from bench.core.progress import Progress, silent
from bench.core.rng import Rng
from bench.core.spec import Spec
from bench.interfaces.answers import check_answers
from bench.interfaces.concept import Concept, PromptSets
from bench.interfaces.context import Context, keep_door
from bench.interfaces.finding import Access, Candidate, Goal, Target
from bench.interfaces.minors import NoMinors, refuse_brought, refuse_minors, withhold
from bench.interfaces.prompt_source import Draw, Goals, PromptSource

__all__ = ["Attack"]


class Attack(Spec, ABC):
    """An attack: one paper, one file. See ``docs/add-an-attack.md`` for a complete example.

    An author writes :meth:`run`; everybody else calls the attack: ``attack(target, goals, rng=rng)``.

    Attributes:
        access: What the attacker holds.
        gradients: It needs gradients through the edited model.
        prompt_sets: Which of a concept's prompt sets the goals are made from.
        goals: At most so many goals per prompt set; or the file that they are the rows of; ``None``
            takes what the suite says.
    """

    kind: ClassVar[str] = "attack"
    access: ClassVar[Access] = Access.PROMPT
    gradients: ClassVar[bool] = False
    control: ClassVar[bool] = False
    prompt_sets: PromptSets = ("name",)
    goals: Goals | None = None

    @property
    def holds(self) -> Access:
        """``access``, unless what this one was given needs more."""
        return self.access

    @property
    def goal_file(self) -> PromptSource | None:
        """The file that its goals are the rows of, if it has one of its own."""
        return self.goals if isinstance(self.goals, PromptSource) else None

    @property
    def most_goals(self) -> int | None:
        """At most so many goals per prompt set, or per concept of a file; ``None``: as the suite says."""
        return self.goals.limit if isinstance(self.goals, PromptSource) else self.goals

    def identity(self) -> dict[str, Any]:
        """The value that is hashed; goals of a file are named by each search, one by one."""
        identity = super().identity()
        if self.goal_file is not None:
            identity["fields"]["goals"] = None
        return identity

    def looks(self) -> int:
        """Images that it samples per goal while it searches, at most, for the budget of a suite; 0: none."""
        return 0

    def images_per_find(self, seeds: int) -> int:
        """Images that the harness samples of a find, at most.

        Args:
            seeds: Of the suite. A find that fixes its noise is one image, whatever they are.
        """
        return 1 if self.holds is Access.LATENT else seeds

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

    def own_draws(self, concept: Concept) -> Mapping[str, Draw]:
        """How the images of goals that it brings are sampled, by :attr:`Goal.id`; the suite decides for others."""
        return {}

    def remarks(self, concepts: Sequence[Concept]) -> tuple[str, ...]:
        """Lines that a reader of the results must know about what it was given.

        Args:
            concepts: Those of the suite.
        """
        return ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Keeps the door as it is."""
        keep_door(cls, Attack, "run")

    @abstractmethod
    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """Attacks all goals in one batch; a goal's candidates do not depend on the other goals.

        This is what an author writes, and nobody else calls: the door has looked at the goals, and
        looks at what comes back.

        Args:
            target: What it may touch; the model refuses prompts about minors.
            goals: One or more.
            ctx: Its randomness, and whom to tell of long work.

        Returns:
            One or more candidates per goal.
        """

    @final
    def __call__(
        self,
        target: Target,
        goals: Sequence[Goal],
        *,
        rng: Rng,
        progress: Progress = silent,
    ) -> list[Candidate]:
        """Attacks goals; nothing about minors goes in, is tried or comes out.

        The images and steps that it spends are counted by ``target.model.meter``.

        Args:
            target: What it may touch.
            goals: What it tries.
            rng: The only source of randomness.
            progress: Told of long work.

        Returns:
            One or more candidates per goal, none for anything else, each with no more than
            :attr:`holds` allows. One that came to speak of minors has
            :data:`bench.interfaces.minors.WITHHELD` for its prompt.

        Raises:
            UsageError: a goal, or a prompt that the attack brought from a file, speaks of minors; or
                the base does not suit the attack.
            ValueError: its answers are not as stated.
            FloatingPointError: numbers of its search are not finite.
        """
        refuse_minors(goals)
        self.check_base(target.model.folder)
        if not goals:
            return []
        guarded = replace(target, model=target.model.with_filters(NoMinors()))
        found = self.run(guarded, goals, Context(rng, progress, target.model.meter))
        refuse_brought(found, goals, by=self.label)
        steps = target.sampler.steps
        check_answers(found, goals, target.model, holds=self.holds, by=self.name, steps=steps)
        return [withhold(candidate) for candidate in found]
