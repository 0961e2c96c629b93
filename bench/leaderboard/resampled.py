"""The outcome of sampling again, and when two images count as the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.core.errors import UsageError

__all__ = ["ALLOWED", "TOLERANCE", "Resampled"]

TOLERANCE: Final = 0.05
"""A score that moved by no more is the same: other machines round otherwise."""
ALLOWED: Final = 0.05
"""The share of the images that may have moved further: a chaotic sampler on another machine does that."""


@dataclass(slots=True)
class Resampled:
    """The outcome of sampling images of a method again.

    Attributes:
        candidates: How many of its candidates were sampled again.
        of: How many could have been.
        utility: How many of its utility images were.
        utility_of: How many could have been.
        images: Images that were compared.
        identical: Those that are the same: of candidates, to the last bit.
        apart: Those whose status changed or whose score moved by more than the tolerance, in words.
        flipped: Those whose verdict changed.
        largest: The largest change of a score.
        left_out: Attacks whose candidates cannot be sampled again, with the reason.
    """

    candidates: int = 0
    of: int = 0
    utility: int = 0
    utility_of: int = 0
    images: int = 0
    identical: int = 0
    apart: list[str] = field(default_factory=list)
    flipped: int = 0
    largest: float = 0.0
    left_out: dict[str, str] = field(default_factory=dict)

    def note(
        self,
        name: str,
        stored: tuple[str, Mapping[str, float]],
        again: tuple[str, Mapping[str, float]],
        *,
        counts: frozenset[str],
        threshold: float,
        same_bytes: bool,
    ) -> None:
        """Compares an image of the rows with the same image sampled again.

        Args:
            name: The image, for people.
            stored: Its status and its scores by label, in the rows.
            again: The same, sampled again.
            counts: The labels that speak for the concept.
            threshold: Of the verdict.
            same_bytes: Its pixels are those of the rows.
        """
        self.images += 1
        (status, scores), (status_again, scores_again) = stored, again
        if status != status_again:
            self.apart.append(f"{name}: {status} in the rows, {status_again} again")
            return
        if status != "ok":
            self.identical += 1
            return
        moved = {label: abs(scores[label] - scores_again[label]) for label in scores}
        worst = max(moved, key=lambda label: moved[label])
        self.largest = max(self.largest, moved[worst])
        verdicts = [
            max(of[label] for label in counts) >= threshold for of in (scores, scores_again)
        ]
        self.flipped += verdicts[0] != verdicts[1]
        # The bytes alone prove nothing: the score beside them may be another image's.
        self.identical += same_bytes and moved[worst] <= TOLERANCE
        if not moved[worst] <= TOLERANCE:
            said = f"{scores[worst]:.3f} in the rows, {scores_again[worst]:.3f} again"
            self.apart.append(f"{name}: {said}")

    def refuse(self, where: Path) -> None:
        """Refuses rows that the model does not give.

        Raises:
            UsageError: more images are apart than another machine explains.
        """
        if len(self.apart) > ALLOWED * self.images:
            raise UsageError(
                f"{where}: expected the scores of the rows from {self.images} images sampled again, and "
                f"{len(self.apart)} differ, e.g. {self.apart[0]}"
            )
