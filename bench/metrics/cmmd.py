"""CMMD (Jayasumana et al. 2024, https://arxiv.org/abs/2401.09603): a kernel distance in a CLIP's space.

As in the authors' code: a Gaussian kernel of width 10 on features of length 1, means over all pairs,
times 1000. The paper's CLIP is OpenAI's ViT-L/14 at 336 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from bench.core.errors import UsageError
from bench.core.spec import runtime
from bench.interfaces import Features, SetMetric
from bench.toolkit.features import ClipFeatures
from bench.toolkit.set_distances import gaussian, mmd_biased

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Cmmd"]

_SIGMA: Final = 10.0
_SCALE: Final = 1000.0


class Cmmd(SetMetric):
    """A thousand times the squared maximum mean discrepancy of CLIP's features; 0: the same set.

    Attributes:
        clip: A source of :func:`bench.toolkit.clip.load_clip`; empty: the miniature's.
    """

    name: ClassVar[str] = "cmmd"
    columns: ClassVar[tuple[str, ...]] = ("cmmd",)
    least: ClassVar[float] = 0.0
    clip: str = runtime("")

    def features(self) -> Features:
        """CLIP's."""
        return ClipFeatures(clip=self.clip)

    def check_base(self, folder: Path | None) -> None:
        """Refuses another base than the miniature where no CLIP is given."""
        try:
            super().check_base(folder)
        except UsageError as error:
            raise (error if error.at[:1] == (self.name,) else error.below(self.name)) from error

    def values(
        self,
        edited_ND: NDArray[np.float64],
        other_MD: NDArray[np.float64],
        counts: tuple[NDArray[np.float64], NDArray[np.float64]],
        *,
        paired: bool,
    ) -> Mapping[str, NDArray[np.float64]]:
        """The distance, at least 0."""
        kernel = partial(gaussian, sigma=_SIGMA)
        return {"cmmd": _SCALE * mmd_biased(edited_ND, other_MD, counts, kernel)}
