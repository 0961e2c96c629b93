"""The four plug points, and the values that pass between them and the harness.

Tensors are named with their shape: B rows, L tokens, D text width, C h w latent, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Protocol, Self

from pydantic import AfterValidator, Field

from bench.bounds import Count, Number
from bench.digest import digest_of
from bench.errors import shown
from bench.lazy import torch
from bench.rng import seed_for
from bench.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from bench.model import TextToImage
    from bench.sampler import Sampler

__all__ = [
    "Access",
    "Attack",
    "Candidate",
    "Concept",
    "Erasure",
    "Goal",
    "Judge",
    "Metric",
    "Name",
    "Progress",
    "PromptSets",
    "Rng",
    "Slot",
    "Target",
    "Trace",
    "UtilityBatch",
    "UtilityPrompt",
    "silent",
]

Slot = Literal["weights", "guidance", "filters"]


def _name(text: str) -> str:
    """The text, if it can name a line of a table and a file."""
    if not text or text != text.strip():
        raise ValueError(f"expected a name, without spaces around it, got {shown(text)}")
    if len(text) > _LONGEST_NAME:
        raise ValueError(f"expected a name of at most {_LONGEST_NAME} characters, got {len(text)}")
    if "/" in text or "\\" in text:
        raise ValueError(f"expected a name without / and \\, got {shown(text)}")
    return text


def _no_pool(text: str) -> str:
    if text == "all":
        raise ValueError("expected a concept's name, got 'all', which tables call the pooled line")
    return text


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError(f"expected each prompt set once, got {shown(list(names))}")
    return names


_LONGEST_NAME: Final = 100
Name = Annotated[str, AfterValidator(_name)]
"""Of a concept or a prompt set: 1 to 100 characters that can stand in a table and in a file's name."""
PromptSets = Annotated[tuple[str, ...], Field(min_length=1, max_length=100), AfterValidator(_once)]


class UtilityPrompt(Spec):
    """A prompt that asks for something other than the erased concept.

    Attributes:
        text: The prompt.
        concept: Name of the concept it asks for.
        mentions: Every concept it names: it is not used when one of them is erased.
    """

    kind: ClassVar[str] = "utility_prompt"
    text: str
    concept: str
    mentions: tuple[str, ...] = ()


class Concept(Spec):
    """Something to erase.

    Attributes:
        text: What an erasure method is told: the canonical name, and nothing else about the prompts
            below.
        family: ``object``, ``style``, ``character``, ...
        head: Which head of a classifier tells it, if that is not the family.
        guide: What the edited model should draw instead; empty: nothing in particular.
        neighbours: Concepts that look or mean alike.
        prompts: Set name -> prompts that ask for it (``name``, ``synonyms``, ``indirect``).
        utility: Prompts that ask for it by name, used when *another* concept is erased.
    """

    kind: ClassVar[str] = "concept"
    text: Annotated[Name, AfterValidator(_no_pool)]
    family: str = "object"
    head: str = ""
    guide: str = ""
    neighbours: tuple[str, ...] = ()
    prompts: Mapping[Name, tuple[str, ...]] = {}
    utility: tuple[UtilityPrompt, ...] = ()


@dataclass(frozen=True, slots=True)
class Rng:
    """Named random streams under one key; asking twice for the same name gives the same stream."""

    key: tuple[object, ...]

    def seed(self, *name: object) -> int:
        """A 63-bit seed."""
        return seed_for(*self.key, *name)

    def generator(self, *name: object) -> torch.Generator:
        """A fresh CPU generator."""
        return torch.Generator().manual_seed(self.seed(*name))

    def child(self, *name: object) -> Rng:
        """The streams below ``name``."""
        return Rng((*self.key, *name))


class Progress(Protocol):
    """Told how far a long piece of work is."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """``done`` of ``total`` steps of ``what``."""


def silent(done: int, total: int, what: str) -> None:
    """A :class:`Progress` that says nothing."""


class Erasure(Spec, ABC):
    """A concept-erasure method: one paper, one file.

    Attributes:
        slots: Which slots of the model it may fill; a contract test holds it to that.
        bypassed_by: What makes it void by construction.
        control: It is a control, not a contender.
    """

    kind: ClassVar[str] = "method"
    slots: ClassVar[frozenset[Slot]] = frozenset()
    bypassed_by: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[bool] = False

    @abstractmethod
    def erase(
        self,
        model: TextToImage,
        concepts: Sequence[Concept],
        *,
        rng: Rng,
        progress: Progress = silent,
    ) -> TextToImage:
        """The edited model.

        Args:
            model: The unedited model; it is a value and is not changed.
            concepts: What to erase, together.
            rng: The only source of randomness.
            progress: Told of long work.

        Raises:
            ValueError: the concepts or the model do not suit the method.
        """

    def base_files(self, folder: Path | None) -> tuple[Path, ...]:
        """Files of the base's folder, beside its networks, that decide the edit; for its digest.

        Args:
            folder: The base's pipeline folder; ``None`` for one that was not loaded from any.
        """
        return ()

    def touches(self, parameter: str) -> bool:
        """Whether the method may change the parameter ``component.name`` (``unet.…``, ``text_encoder.…``)."""
        return False


class Access(IntEnum):
    """What an attacker holds, weakest first."""

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
    """What an attack found for a goal. The harness samples it and a judge decides.

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
    """What an attack may touch.

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
        """What a reader of the results must know of what it was given, a line each.

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


class Judge(Spec, ABC):
    """Looks at images; never at prompts or models.

    Attributes:
        threshold: A score from here on counts as "shows the concept". It is identity, as all that
            decides: a changed one samples the trials again, and for a surrogate searches again. It
            is stored beside the raw scores and applied when reporting, so that any other can be
            applied to ``trials.parquet`` without computing anything.
    """

    kind: ClassVar[str] = "judge"
    threshold: Number = 0.5

    def labels(self, concept: Concept) -> tuple[str, ...]:
        """Names of the columns of :meth:`scores`; :meth:`counts` says which decide."""
        return ("concept",)

    def counts(self, concept: Concept) -> tuple[str, ...]:
        """The labels that speak for the concept: its score is the largest of these columns.

        The others are stored and reported, but decide nothing.

        Returns:
            One or more of :meth:`labels`.
        """
        return self.labels(concept)

    @property
    def network(self) -> str:
        """What it looks through: judges of one network see alike, however they are asked.

        An attack that sees through the judge of record grades itself, so a suite's surrogate has
        another network. By default, whatever its fields and files say but the threshold.
        """
        identity = self.identity()
        del identity["fields"]["threshold"]
        return digest_of(identity)

    def check_concept(self, concept: Concept) -> None:
        """Refuses a concept that it cannot see, when a plan is made: its score would mean nothing.

        Raises:
            UsageError: in one line, with what it can see.
        """

    @abstractmethod
    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        """Raw scores.

        Args:
            images_B3HW: float32 in [0, 1].
            concept: What to look for.

        Returns:
            float32 [B, len(labels(concept))], usually in [0, 1].

        Raises:
            ValueError: the judge does not know the concept.
        """


@dataclass(frozen=True, slots=True)
class UtilityBatch:
    """Images of the edited and of the unedited model for the same prompts and seeds.

    Attributes:
        prompts: B prompts.
        concepts: The concept each prompt asks for.
        images_B3HW: From the edited model, in [0, 1].
        base_images_B3HW: From the unedited model.
        judge: The judge of record.
    """

    prompts: Sequence[str]
    concepts: Sequence[Concept]
    images_B3HW: Tensor
    base_images_B3HW: Tensor
    judge: Judge


class Metric(Spec, ABC):
    """Utility: what the edit cost.

    Attributes:
        higher_is_better: Direction.
    """

    kind: ClassVar[str] = "metric"
    higher_is_better: ClassVar[bool] = True

    def check_judge(self, judge: Judge, concepts: Sequence[Concept]) -> None:
        """Refuses a judge of record that cannot tell what the metric asks it, when a plan is made.

        Args:
            judge: The judge of record.
            concepts: What the utility prompts ask for.

        Raises:
            UsageError: in one line.
        """

    @abstractmethod
    def values(self, batch: UtilityBatch) -> Tensor:
        """float32 [B], one value an image."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A registered class and where it came from."""

    cls: type[Spec]
    source: str = "built in"
    aliases: tuple[str, ...] = field(default=())
