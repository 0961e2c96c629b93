"""How it is seen whether a model draws a concept: it is sampled, and the surrogate looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.interfaces import Concept, Judge
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import require_finite

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Sight"]


@dataclass(frozen=True, slots=True)
class Sight:
    """A concept, and how it is looked for in a model's images.

    Attributes:
        concept: What is looked for.
        sampler: The sampler that a strength is meant for.
        surrogate: Tells whether an image shows the concept; never the judge of record.
    """

    concept: Concept
    sampler: Sampler
    surrogate: Judge

    def scores(self, model: TextToImage, images_N3HW: Tensor) -> Tensor:
        """The surrogate's score [N] of a model's images for the concept, on the model's device.

        Raises:
            FloatingPointError: a score is not finite.
        """
        scores_NL = self.surrogate.scores(images_N3HW.to(model.device), self.concept)
        require_finite([scores_NL], f"{self.surrogate.label}: a score")
        return scores_NL.amax(1)

    def seen(self, model: TextToImage, images_N3HW: Tensor) -> Tensor:
        """Bool [N]: the surrogate sees the concept in the image."""
        return self.scores(model, images_N3HW) >= self.surrogate.threshold
