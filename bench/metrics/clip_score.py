"""CLIP score (Hessel et al. 2021, https://arxiv.org/abs/2104.08718): the image against its prompt.

The plain cosine: neither the paper's factor of 2.5 nor the factor of 100 of some implementations,
and negative values are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.core.spec import PathText
from bench.interfaces import Metric, UtilityBatch
from bench.toolkit.clip import check_source, clip_files, load_clip

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ClipScore"]


class ClipScore(Metric):
    """The cosine of the features of an image and of its prompt.

    Attributes:
        clip: A source of :func:`bench.toolkit.clip.load_clip`; empty: the miniature's.
    """

    name: ClassVar[str] = "clip_score"
    clip: PathText = ""

    def files(self) -> tuple[Path, ...]:
        """The files of its CLIP."""
        return clip_files(self.clip)

    def check_base(self, folder: Path | None) -> None:
        """Refuses another base than the miniature where no CLIP is given."""
        check_source(self.clip, folder, at=(self.name, "clip"))

    def values(self, batch: UtilityBatch) -> Tensor:
        """The cosines.

        Returns:
            float32 [B] in [-1, 1].
        """
        clip = load_clip(self.clip, str(batch.images_B3HW.device))
        images_BE = clip.image_features(batch.images_B3HW)
        texts_BE = clip.text_features(batch.prompts)
        return (images_BE * texts_BE).sum(-1).clamp(-1, 1)
