"""The plug point of erasure methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.core.progress import Progress, silent
from bench.core.rng import Rng
from bench.core.spec import Spec
from bench.interfaces.concept import Concept
from bench.model.slots import Slot

if TYPE_CHECKING:
    from bench.model.text_to_image import TextToImage

__all__ = ["Erasure"]


class Erasure(Spec, ABC):
    """A concept-erasure method: one paper, one file.

    Attributes:
        slots: Which slots of the model it may fill; a contract test holds it to that.
        bypassed_by: What makes it void by construction.
        control: It is a control, not a contender.
    """

    kind: ClassVar[str] = "method"
    slots: ClassVar[frozenset[Slot]] = frozenset()
    bypassed_by: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[bool] = False

    @abstractmethod
    def erase(
        self,
        model: TextToImage,
        concepts: Sequence[Concept],
        *,
        rng: Rng,
        progress: Progress = silent,
    ) -> TextToImage:
        """The edited model.

        Args:
            model: The unedited model; it is a value and is not changed.
            concepts: What to erase, together.
            rng: The only source of randomness.
            progress: Told of long work.

        Raises:
            ValueError: the concepts or the model do not suit the method.
        """

    def base_files(self, folder: Path | None) -> tuple[Path, ...]:
        """Files of the base's folder, beside its networks, that decide the edit; for its digest.

        Args:
            folder: The base's pipeline folder; ``None`` for one that was not loaded from any.
        """
        return ()

    def touches(self, parameter: str) -> bool:
        """Whether the method may change the parameter ``component.name`` (``unet.…``, ``text_encoder.…``)."""
        return False
