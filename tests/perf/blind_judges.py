"""Two judges that take any concept and see none: a plan with them grows as large as it is wanted."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from bench.interfaces import Concept, Judge


class BlindJudge(Judge):
    """Decides; nobody asks it."""

    name: ClassVar[str] = "blind_judge"

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        """Refuses to say anything: plans judge nothing.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(concept.text)


class BlindSurrogate(BlindJudge):
    """Guides the attacks."""

    name: ClassVar[str] = "blind_surrogate"
