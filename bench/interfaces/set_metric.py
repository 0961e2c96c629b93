"""The plug point of metrics that compare two sets of images by their features."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.bounds import Count
from bench.core.errors import UsageError
from bench.core.image_files import image_paths, images_digest
from bench.core.spec import PathText, Spec, runtime, with_name
from bench.interfaces.metric import Measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Features", "SetMetric"]


class Features(Spec, ABC):
    """Turns images into vectors; stored once for all metrics that compare by them."""

    kind: ClassVar[str] = "features"

    @abstractmethod
    def vectors(self, images_B3HW: Tensor) -> Tensor:
        """Features of images, each by itself.

        Args:
            images_B3HW: float32 in [0, 1], of any size that the network takes.

        Returns:
            float32 [B, D].
        """


class SetMetric(Measure):
    """A distance of the edited model's images from other images, each a set. See ``docs/add-a-judge.md``.

    Images without a score (refused, blanked, lost) are in no set: the number that are is stated.

    Attributes:
        columns: Names of its values.
        least: The smallest value there can be.
        most: The largest.
        real: A folder of real images to compare with; empty: the unedited model's images of the
            same prompts and seeds.
        resamples: Of the bootstrap that gives the intervals.
    """

    higher_is_better: ClassVar[bool] = False
    columns: ClassVar[tuple[str, ...]] = ()
    least: ClassVar[float] = -math.inf
    most: ClassVar[float] = math.inf
    real: PathText = runtime("")
    resamples: Count = 200

    def identity(self) -> dict[str, Any]:
        """See the base class: with its features, and the content of the folder of real images."""
        about = super().identity() | {"features": self.features().identity()}
        return about | ({"real": images_digest(self.real)} if self.real else {})

    def check_base(self, folder: Path | None) -> None:
        """Refuses features that do not suit the base, and a folder without images."""
        self.features().check_base(folder)
        if self.real:
            try:
                image_paths(self.real)
            except UsageError as error:
                raise error.below(self.name, "real") from error

    def _described(self) -> str:
        """The label, with the name of the folder of real images, which tells two of them apart."""
        own = super()._described()
        if not self.real:
            return own
        return with_name(own, f"real={self.told('real', self.real)}")

    @abstractmethod
    def features(self) -> Features:
        """The features that it compares by."""

    @abstractmethod
    def values(
        self,
        edited_ND: NDArray[np.float64],
        other_MD: NDArray[np.float64],
        counts: tuple[NDArray[np.float64], NDArray[np.float64]],
        *,
        paired: bool,
    ) -> Mapping[str, NDArray[np.float64]]:
        """Its values, for several resamples at once.

        Args:
            edited_ND: Features of the edited model's images.
            other_MD: Features of the images that they are compared with.
            counts: How often each row is drawn, [R, N] and [R, M]. The first resample has each row once.
            paired: Row i of the one has the prompt and the seed of row i of the other.

        Returns:
            By the name of a column, [R]; NaN where it cannot be worked out.
        """
