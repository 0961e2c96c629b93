"""Does a base model work at all? One look before a run computes anything: a broken base erases every concept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import torch

from bench.core.errors import UsageError, in_one_line
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage

__all__ = ["SelfCheck", "self_check"]

# Of the same lengths, so that a tokenizer that knows no word cannot tell them apart.
_PROMPTS: Final = ("red star", "big cats", "old fish", "new moon")
_SEED: Final = 0
_STEPS: Final = 2
_ALIKE: Final = 1e-6
"""Two states that differ by less, relative to the largest number of all, are the same but for rounding."""
_LEVEL: Final = 1 / 255
"""An image whose values differ by less is one colour when it is stored."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """The measurements of the look.

    Attributes:
        text_spread: Largest difference between the states of different prompts, relative to the
            largest number of all; above 0.
        image_spread: Largest value of an image less the smallest, of 1.
    """

    text_spread: float
    image_spread: float

    def as_json(self) -> dict[str, float]:
        """For a run's record: three digits, for the last ones are the processor's."""
        return {name: float(f"{value:.3g}") for name, value in asdict(self).items()}


def self_check(base: TextToImage, sampler: Sampler) -> SelfCheck:
    """Encodes a few prompts and samples one image in two steps.

    It draws from generators of its own alone, so it changes no result.

    Args:
        base: The unedited model.
        sampler: The suite's.

    Raises:
        UsageError: it cannot make an image, different prompts all encode alike, or numbers are not
            finite, or the image is of one colour.
    """
    at = f"base {base.backbone.folder or base.backbone.digest[:12]}"
    try:
        # Compiled networks would be compiled for these sizes too.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            states_BLD = base.encode(_PROMPTS).states_BLD.float()
            quick = sampler.model_copy(update={"steps": min(_STEPS, sampler.steps)})
            out = base.sample(_PROMPTS[:1], [_SEED], quick)
    except torch.OutOfMemoryError:
        raise  # not the base's fault
    except Exception as error:  # whatever its networks and their libraries raise
        raise UsageError(f"{at}: cannot make an image: {in_one_line(error)}") from error
    if not bool(torch.isfinite(states_BLD).all()):
        raise UsageError(f"{at}: the text encoder gives numbers that are not finite")
    largest = float(states_BLD.abs().max())
    apart = float((states_BLD - states_BLD[:1]).abs().max())
    text_spread = apart / largest if largest > 0 else 0.0
    if text_spread <= _ALIKE:
        raise UsageError(
            f"{at}: different prompts all encode alike; its tokenizer or text encoder is broken"
        )
    image_3HW = out.images_B3HW[0]
    if out.status[0] != "ok" or not bool(torch.isfinite(image_3HW).all()):
        dtype = str(base.backbone.dtype).removeprefix("torch.")
        raise UsageError(f"{at}: its images are not finite in {dtype}; its weights are broken")
    image_spread = float(image_3HW.max() - image_3HW.min())
    if image_spread < _LEVEL:
        raise UsageError(f"{at}: its images are of one colour; its weights are broken")
    return SelfCheck(text_spread, image_spread)
