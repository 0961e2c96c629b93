"""The plug point of judges, which look at images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from bench.core.bounds import Number
from bench.core.digest import digest_of
from bench.core.spec import Spec, applied
from bench.interfaces.concept import Concept

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Judge"]


class Judge(Spec, ABC):
    """Looks at images; never at prompts or models. See ``docs/add-a-judge.md`` for a complete example.

    Attributes:
        threshold: A score from here on counts as "shows the concept". It is applied to the stored
            raw scores when tables are made, so that another one computes nothing again. An attack
            may stop by that of its surrogate: there, another one searches again.
        abstains: Whether a score that is NaN says that there is nothing to judge, such as no face in the
            image. Of every other judge it is an error.
        side: Pixels of a side of the images that it takes; ``None``: of any. A suite that samples others is refused.
    """

    kind: ClassVar[str] = "judge"
    abstains: ClassVar[bool] = False
    side: ClassVar[int | None] = None
    threshold: Number = applied(0.5)

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

    def label_sets(self) -> Mapping[str, tuple[str, ...]]:
        """Published sets of its labels, by name: tables show what each would have counted."""
        return {}

    @property
    def network(self) -> str:
        """The digest of what it looks through: judges of one network see alike, however they are asked.

        An attack that sees through the judge of record grades itself, so a suite's surrogate has
        another network. By default, whatever its identity says.
        """
        return digest_of(self.identity())

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
