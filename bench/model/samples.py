"""Images, and what became of each request for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
