"""Does the model still draw what it is asked for? The judge of record decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from bench.core.lazy import torch
from bench.interfaces import Concept, Judge, Metric, UtilityBatch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Accuracy"]


class Accuracy(Metric):
    """The judge's score for the concept that the prompt asks for: right from its threshold on."""

    name: ClassVar[str] = "accuracy"
    asks_judge: ClassVar[bool] = True

    def check_judge(self, judge: Judge, concepts: Sequence[Concept]) -> None:
        """Refuses a judge that cannot see what the utility prompts ask for."""
        for concept in concepts:
            judge.check_concept(concept)

    def threshold(self, judge: Judge) -> float:
        """The judge's."""
        return judge.threshold

    def values(self, batch: UtilityBatch) -> Tensor:
        """Calls the judge once per concept.

        Returns:
            float32 [B]: the largest raw score of a label that counts.

        Raises:
            ValueError: there is no judge, or it does not know a concept.
        """
        judge = batch.judge
        if judge is None:
            raise ValueError(f"{self.name}: expected the judge of record, got none")
        groups: dict[str, tuple[Concept, list[int]]] = {}
        for row, concept in enumerate(batch.concepts):
            if concept is None:
                raise ValueError(f"{self.name}: expected a concept for each prompt, got none")
            groups.setdefault(concept.digest, (concept, []))[1].append(row)
        values = torch.zeros(len(batch.concepts))
        for concept, rows in groups.values():
            scores_BL = judge.scores(batch.images_B3HW[rows], concept)
            labels = judge.labels(concept)
            columns = [labels.index(label) for label in judge.counts(concept)]
            values[rows] = scores_BL[:, columns].amax(dim=1).float().to(values.device)
        return values
