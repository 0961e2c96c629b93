"""KID (Binkowski et al. 2018, https://arxiv.org/abs/1801.01401): a kernel distance of two sets of images.

Without bias, so that small sets compare with large ones; it may fall a little below 0. All images are
compared at once, where papers take the mean over subsets of 1000: the same number on average. Papers
often print it times 1000; here it is as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from bench.toolkit.inception_metric import InceptionMetric
from bench.toolkit.set_distances import mmd_unbiased, polynomial

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Kid"]


class Kid(InceptionMetric):
    """The squared maximum mean discrepancy with a cubic kernel; 0: the same distribution."""

    name: ClassVar[str] = "kid"
    columns: ClassVar[tuple[str, ...]] = ("kid",)

    def values(
        self,
        edited_ND: NDArray[np.float64],
        other_MD: NDArray[np.float64],
        counts: tuple[NDArray[np.float64], NDArray[np.float64]],
        *,
        paired: bool,
    ) -> Mapping[str, NDArray[np.float64]]:
        """The distance; images of one prompt and seed are not compared where the sets are pairs."""
        return {"kid": mmd_unbiased(edited_ND, other_MD, counts, polynomial, paired=paired)}
