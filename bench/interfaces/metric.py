"""The plug point of utility metrics, and the images that they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.core.spec import Spec
from bench.interfaces.concept import Concept
from bench.interfaces.judge import Judge

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Measure", "Metric", "UtilityBatch"]


@dataclass(frozen=True, slots=True, eq=False)
class UtilityBatch:
    """Images of the edited and of the unedited model for the same prompts and seeds.

    Attributes:
        prompts: B prompts.
        concepts: The concept each prompt asks for; ``None`` for a caption, which no metric that asks the
            judge is given.
        images_B3HW: From the edited model, in [0, 1].
        base_images_B3HW: From the unedited model.
        judge: The judge of record, for a metric that asks it; ``None`` for the others.
    """

    prompts: Sequence[str]
    concepts: Sequence[Concept | None]
    images_B3HW: Tensor
    base_images_B3HW: Tensor
    judge: Judge | None = None


class Measure(Spec, ABC):
    """Utility, what the edit cost: of each image (:class:`Metric`), or of a set of images.

    Attributes:
        higher_is_better: Direction.
        asks_judge: Whether it looks through the judge of record, which is then part of what names
            its values in the store.
    """

    kind: ClassVar[str] = "metric"
    higher_is_better: ClassVar[bool] = True
    asks_judge: ClassVar[bool] = False

    def check_judge(self, judge: Judge, concepts: Sequence[Concept]) -> None:
        """Refuses a judge of record that cannot tell what the metric asks it, when a plan is made.

        Args:
            judge: The judge of record.
            concepts: What the utility prompts ask for.

        Raises:
            UsageError: in one line.
        """


class Metric(Measure):
    """A value per image. See ``docs/add-a-judge.md`` for a complete example."""

    def threshold(self, judge: Judge) -> float | None:
        """A value from here on counts as 1 and any other as 0; ``None``: values are what they are.

        It is applied when tables are made: another one computes nothing again.

        Args:
            judge: The judge of record.
        """
        return None

    @abstractmethod
    def values(self, batch: UtilityBatch) -> Tensor:
        """float32 [B], one raw value per image."""
