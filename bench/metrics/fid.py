"""FID (Heusel et al. 2017, https://arxiv.org/abs/1706.08500): the Frechet distance of two sets of images.

Biased: the fewer images, the larger it is, though both sets come from one source. Only values of as many
images compare. With fewer images than features (2048, the miniature's 320) the covariances are not even
of full rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from bench.toolkit.inception_metric import InceptionMetric
from bench.toolkit.set_distances import frechet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Fid"]


class Fid(InceptionMetric):
    """The Frechet distance of the features' Gaussians; 0: the same mean and covariance."""

    name: ClassVar[str] = "fid"
    columns: ClassVar[tuple[str, ...]] = ("fid",)
    least: ClassVar[float] = 0.0

    def values(
        self,
        edited_ND: NDArray[np.float64],
        other_MD: NDArray[np.float64],
        counts: tuple[NDArray[np.float64], NDArray[np.float64]],
        *,
        paired: bool,
    ) -> Mapping[str, NDArray[np.float64]]:
        """The distance, at least 0."""
        return {"fid": frechet(edited_ND, other_MD, counts)}
