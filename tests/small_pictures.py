"""Pictures of half the side, for what holds at any size: a quarter of the pixels, half of the time."""

from __future__ import annotations

from typing import ClassVar, Final

from torch import Tensor

from bench.interfaces import Concept
from bench.judges.mini import MiniJudge
from bench.model.sampler import Sampler

__all__ = ["SMALL_SAMPLER", "SmallPictures"]

SMALL_SAMPLER: Final = Sampler(steps=2, size=32)
_SIDE: Final = 64


class SmallPictures(MiniJudge):
    """The miniature's judge, who enlarges what is smaller than the pictures that it knows."""

    name: ClassVar[str] = "small_pictures"
    side: ClassVar[int | None] = None

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        """See the base class."""
        factor = _SIDE // images_B3HW.shape[-1]
        larger = images_B3HW.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        return super().scores(larger, concept)
