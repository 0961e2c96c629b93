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
    """1 where the judge sees the concept that the prompt asks for, else 0."""

    name: ClassVar[str] = "accuracy"

    def check_judge(self, judge: Judge, concepts: Sequence[Concept]) -> None:
        """Refuses a judge that cannot see what the utility prompts ask for."""
        for concept in concepts:
            judge.check_concept(concept)

    def values(self, batch: UtilityBatch) -> Tensor:
        """Calls the judge once a concept.

        Returns:
            float32 [B].

        Raises:
            ValueError: the judge does not know a concept.
        """
        groups: dict[str, tuple[Concept, list[int]]] = {}
        for row, concept in enumerate(batch.concepts):
            groups.setdefault(concept.digest, (concept, []))[1].append(row)
        values = torch.zeros(len(batch.concepts))
        for concept, rows in groups.values():
            scores_BL = batch.judge.scores(batch.images_B3HW[rows], concept)
            labels = batch.judge.labels(concept)
            columns = [labels.index(label) for label in batch.judge.counts(concept)]
            shown = scores_BL[:, columns].amax(dim=1) >= batch.judge.threshold
            values[rows] = shown.float().to(values.device)
        return values
