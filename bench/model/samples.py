"""Images, and what became of each request for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.model.filters import Filter, blanked_by

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Samples", "Status"]

Status = Literal["ok", "refused", "blanked", "error"]


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Images and what became of each request.

    Attributes:
        images_B3HW: float32 in [0, 1] on the CPU; black where the status is not ``ok``.
        status: One per row; ``error`` where the latents or the image are not finite.
    """

    images_B3HW: Tensor
    status: tuple[Status, ...]

    @classmethod
    def of(cls, images_B3HW: Tensor, refused_B: Tensor, filters: Sequence[Filter]) -> Samples:
        """The images as a user gets them: filters look at the images; what they blank or is not finite becomes black.

        Args:
            images_B3HW: As decoded; changed in place.
            refused_B: Whose prompt was refused: there is no image.
            filters: The model's.
        """
        broken = ~images_B3HW.isfinite().flatten(1).all(1)
        images_B3HW[broken] = 0  # filters look at images only
        blanked = blanked_by(filters, images_B3HW) & ~refused_B & ~broken
        images_B3HW[blanked] = 0
        status = tuple[Status, ...](
            "refused" if r else "error" if e else "blanked" if b else "ok"
            for r, e, b in zip(refused_B.tolist(), broken.tolist(), blanked.tolist(), strict=True)
        )
        return cls(images_B3HW, status)

    def all_finite(self) -> Samples:
        """These samples, for a caller that cannot go on without every image.

        Raises:
            FloatingPointError: an image is not finite.
        """
        if lost := self.status.count("error"):
            raise FloatingPointError(
                f"expected finite images, but {lost} of {len(self.status)} hold NaN or infinity; "
                "half precision may overflow: try float32, or a weaker edit"
            )
        return self
