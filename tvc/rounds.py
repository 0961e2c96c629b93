"""Adaptive rounds: Diverse Inversion on the *edited* model, until no new embedding brings the concept back.

Ours, not the paper's. Embeddings that were found on the unedited model say what an attacker finds who
never saw the edit. An attacker who searches on the edited model finds others. So each round looks for
new ones there, at the strength found so far. Those that show the concept raise the strength until they
no longer do. It ends with a round that finds none, or when the rounds or strengths run out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.interfaces import Progress, Rng, silent
from bench.model.text_to_image import TextToImage
from tvc.contexts import BARE
from tvc.diverse_inversion import DiverseInversion, InversionSet, diverse_inversion
from tvc.sight import Sight
from tvc.strength import Estimate, Strength, estimate

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Round", "adaptive_rounds"]


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One round.

    Attributes:
        searched_at: The strength of the edit that the embeddings were searched on.
        found: The embeddings; all of them count, also those that show the concept rarely.
        estimate: What they ask for, at least ``searched_at``.
    """

    searched_at: float
    found: InversionSet
    estimate: Estimate

    @property
    def passed(self) -> bool:
        """Whether an embedding got through at the strength it was searched on."""
        return self.estimate.alpha > self.searched_at or not self.estimate.reached


def adaptive_rounds(
    edited_at: Callable[[float], TextToImage],
    sight: Sight,
    images_N3HW: Tensor,
    first: Estimate,
    *,
    rounds: int,
    search: DiverseInversion,
    how: Strength,
    rng: Rng,
    contexts: Sequence[str] = BARE,
    progress: Progress = silent,
) -> list[Round]:
    """The rounds that were played, at most ``rounds``.

    Args:
        edited_at: alpha -> the edited model; 0 is the unedited one.
        sight: Looks for what was erased.
        images_N3HW: Of the concept, in [0, 1], from the unedited model.
        first: The estimate to begin with; one that was never reached is left as it is.
        rounds: Largest number of them.
        search: How embeddings are looked for.
        how: Constants of the estimate.
        rng: Each round has streams of its own.
        contexts: Texts with one ``{}`` that embeddings are looked at in.
        progress: Told of each part.
    """
    played: list[Round] = []
    needed = first
    while needed.reached and len(played) < rounds:
        own = rng.child("round", len(played))
        alpha = needed.alpha
        found = diverse_inversion(
            edited_at(alpha), sight, images_N3HW, search, rng=own.child("search"), progress=progress,
        )  # fmt: skip
        # All of them: one that shows the concept in a tenth of its images is above the bar already.
        found = replace(found, induces=0.0)
        needed = estimate(
            edited_at, sight, found, how, rng=own.child("strength"),
            contexts=contexts, least=alpha, progress=progress,
        )  # fmt: skip
        played.append(Round(alpha, found, needed))
        if not played[-1].passed:
            break
    return played
