"""How far an edit moves the images of prompts that have nothing to do with the concept.

Both models draw the same prompt from the same seed. An edit that touches nothing but the concept
leaves the image as it was, pixel by pixel.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.core.spec import PathText
from bench.interfaces import Metric, UtilityBatch
from bench.toolkit.clip import check_source, clip_files, load_clip

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Drift"]


class Drift(Metric):
    """The distance between the edited and the unedited model's image; 0: unchanged.

    Attributes:
        space: ``clip``: 1 - cosine of the images' CLIP features, in [0, 2]: what they show;
            ``pixel``: mean absolute difference, in [0, 1]: every detail.
        clip: A source of :func:`bench.toolkit.clip.load_clip`; empty: the miniature's.
    """

    name: ClassVar[str] = "drift"
    higher_is_better: ClassVar[bool] = False
    space: Literal["clip", "pixel"] = "clip"
    clip: PathText = ""

    def files(self) -> tuple[Path, ...]:
        """The files of its CLIP, where it looks through one."""
        return clip_files(self.clip) if self.space == "clip" else ()

    def check_base(self, folder: Path | None) -> None:
        """Refuses another base than the miniature where a CLIP is needed and none is given."""
        if self.space == "clip":
            check_source(self.clip, folder, at=(self.name, "clip"))

    def values(self, batch: UtilityBatch) -> Tensor:
        """The distances.

        Returns:
            float32 [B].

        Raises:
            ValueError: the two models' images have different shapes.
        """
        edited, base = batch.images_B3HW, batch.base_images_B3HW
        if edited.shape != base.shape:
            raise ValueError(
                f"{self.name}: expected images of both models of one shape, got "
                f"{list(edited.shape)} and {list(base.shape)}"
            )
        if self.space == "pixel":
            return (edited - base).abs().flatten(1).mean(1)
        clip = load_clip(self.clip, str(edited.device))
        apart_BE = clip.image_features(edited) - clip.image_features(base)
        # Of unit vectors this is 1 - cosine; and it is exactly 0 where they are equal.
        return apart_BE.square().sum(-1) / 2
