"""Benign fine-tuning: training on pictures of *other* things. Does the concept come back by itself?

After "Concept resurgence" (Suriyakumar et al. 2024, arXiv 2410.08074), which found that ordinary
fine-tuning on unrelated data undoes erasures. Nobody attacks here: a user trains a model for a purpose
of his own. Access ``WEIGHTS``: a find is the difference to the weights, and the plain prompt is sampled.

The pictures are drawn by the original model from captions that do not name the concept: its
neighbours, and things of every day. Different on purpose: the paper trains on real photographs.
"""

from __future__ import annotations

from typing import Any, ClassVar

from attacks.shared.finetuning import FineTuning
from bench.core.bounds import Count, LearningRate
from bench.interfaces import Concept
from bench.toolkit.wording import in_context, subjects

__all__ = ["BenignFinetune"]


class BenignFinetune(FineTuning):
    """Fine-tunes on pictures of other concepts; see the base class for its fields.

    Presets:
        mini: for the miniature on two cores.
    """

    name: ClassVar[str] = "benign_finetune"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "mini": {"steps": 80, "lr": 3e-4, "batch_size": 8}
    }
    images: Count = 32
    steps: Count = 500
    lr: LearningRate = 1e-5
    batch_size: Count = 4
    rank: Count | None = None

    def captions(self, concept: Concept) -> list[str]:
        """Texts about the concept's neighbours and things of every day, in turn; none names the concept."""
        told, names = in_context(concept.family), concept.neighbours
        near = [told[k % len(told)].replace("{}", name) for k, name in enumerate(names)]
        said = [
            text for k, subject in enumerate(subjects()) for text in (subject, *near[k : k + 1])
        ]
        said = [text for text in said if concept.text.casefold() not in text.casefold()]
        return [said[k % len(said)] for k in range(self.images)]
