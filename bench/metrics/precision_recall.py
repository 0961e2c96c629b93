"""Improved precision and recall (Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991).

Precision: the share of the edited model's images that look like the others. Recall: the share of the
others that look like the edited model's. An edit that draws one thing well loses recall alone. The
authors' features are those of VGG-16; here they are FID's, as in later work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from bench.toolkit.inception_metric import InceptionMetric
from bench.toolkit.set_distances import inside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PrecisionRecall"]


class PrecisionRecall(InceptionMetric):
    """The shares of each set that lie in the manifold of the other; 1: all.

    Their intervals are of the images that are asked of; the manifolds stay as they are.

    Attributes:
        neighbours: Radius of an image's ball: the distance of its k-th neighbour.
    """

    name: ClassVar[str] = "precision_recall"
    higher_is_better: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("precision", "recall")
    least: ClassVar[float] = 0.0
    most: ClassVar[float] = 1.0
    neighbours: int = Field(3, ge=1, le=100)

    def values(
        self,
        edited_ND: NDArray[np.float64],
        other_MD: NDArray[np.float64],
        counts: tuple[NDArray[np.float64], NDArray[np.float64]],
        *,
        paired: bool,
    ) -> Mapping[str, NDArray[np.float64]]:
        """The two shares; missing where a set has no more images than :attr:`neighbours`."""
        first, second = counts
        if min(len(edited_ND), len(other_MD)) <= self.neighbours:
            nothing = first.sum(1) * float("nan")
            return {"precision": nothing, "recall": nothing}
        real = inside(edited_ND, other_MD, neighbours=self.neighbours)
        covered = inside(other_MD, edited_ND, neighbours=self.neighbours)
        return {
            "precision": first @ real / first.sum(1),
            "recall": second @ covered / second.sum(1),
        }
