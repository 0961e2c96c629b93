"""Relearning: the attacker fine-tunes the edited model on a few pictures of the concept.

It asks how far away a concept is in weights, by how many steps bring it back. A fine-tune of this kind is
what users do to any model; MemoRa (gmum/MemoRa, 2025) is a published form of it. Access ``WEIGHTS``: a
find is the difference to the weights, and the plain prompt is sampled.

Different from MemoRa: the pictures are drawn by the original model, which an attacker has; theirs are
inverted photographs with mixtures of them. Name it several times in a suite for success against steps.

A model that never knew the concept learns it too, with more steps. So compare with the same attack
against ``destroyed``, and with ``benign_finetune``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from attacks.shared.finetuning import FineTuning
from bench.core.bounds import Count, LearningRate
from bench.interfaces import Concept
from bench.toolkit.wording import about, in_context

__all__ = ["Relearn"]


class Relearn(FineTuning):
    """Fine-tunes on pictures of the concept; see the base class for its fields.

    Presets:
        mini: for the miniature on two cores.
    """

    name: ClassVar[str] = "relearn"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "mini": {"images": 32, "steps": 80, "lr": 3e-3, "batch_size": 8, "rank": 16}
    }
    images: Count = 10
    steps: Count = 200
    lr: LearningRate = 1e-4
    batch_size: Count = 1
    rank: Count | None = 4

    def captions(self, concept: Concept) -> list[str]:
        """Sentences that name the concept, with something else around it."""
        return about(concept.text, in_context(concept.family), self.images)
