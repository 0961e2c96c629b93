"""The strength of an edit, chosen by what embeddings ask for: Diverse Inversion, the prompt, adaptive rounds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.core.meter import Note
from bench.interfaces import Concept, Context, Judge
from bench.model.text_to_image import TextToImage
from tvc.diverse_inversion import DiverseInversion, InversionSet, diverse_inversion
from tvc.rounds import Round, adaptive_rounds
from tvc.sight import Sight
from tvc.strength import Estimate, Strength, estimate, prompt_set, strongest
from tvc.subset import named_subset, rank_subsets
from tvc.task_vector import TaskVector

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Choice", "choose"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """How a strength, and with it a subset, is chosen.

    Attributes:
        search: How embeddings are looked for.
        strength: Constants of the estimate.
        rounds: Adaptive rounds, at most.
        reader: Tells what an image shows of a whole prompt; it ranks subsets.
        contexts: Texts with one ``{}`` that embeddings are looked at in.
        alpha: A strength that is given: only a subset is looked for then. ``None``: estimated.
        subsets: Names to choose among; empty: the vector as it is.
    """

    search: DiverseInversion
    strength: Strength
    rounds: int
    reader: Judge
    contexts: Sequence[str]
    alpha: float | None = None
    subsets: tuple[str, ...] = ()


def choose(
    model: TextToImage,
    sight: Sight,
    vector: TaskVector,
    images_N3HW: Tensor,
    how: Choice,
    ctx: Context,
) -> tuple[float, TaskVector]:
    """The strength, and the vector or the part of it that it is for.

    Args:
        model: The unedited model.
        sight: Looks for what is erased.
        vector: Over the whole UNet, or the subset that was asked for.
        images_N3HW: Of the concept, in [0, 1], from the unedited model.
        how: Constants.
        ctx: Its streams are those of the search and of the estimate; the record is told the choice.

    Raises:
        ValueError: no embedding induces the concept, or a subset is unknown.
    """
    rng, progress, concept = ctx.rng, ctx.progress, sight.concept
    own = prompt_set(model, concept)  # the word everybody has may need more than what was found
    inversions = diverse_inversion(
        model, sight, images_N3HW, how.search, rng=rng.child("select"), progress=progress,
    )  # fmt: skip
    needed: Estimate | None = None
    if how.subsets:
        best = rank_subsets(
            model, vector, sight, (inversions, own), how.strength, subsets=how.subsets,
            rng=rng.child("strength"), contexts=how.contexts, reader=how.reader, progress=progress,
        )[0]  # fmt: skip
        vector = vector.restricted(named_subset(model, best.subset))
        log.info("%s: subset %s, retained %.2f", concept.text, best.subset, best.retained)
        _say(ctx, concept, subset=best.subset, retained=best.retained)
        needed = best.estimate
    if how.alpha is not None:
        return how.alpha, vector

    def edited_at(alpha: float) -> TextToImage:
        return vector.subtracted(model, alpha) if alpha else model

    if needed is None:
        needed = strongest(
            estimate(
                edited_at, sight, found, how.strength, rng=rng.child("strength"), contexts=how.contexts,
                progress=progress,
            )
            for found in (inversions, own)
        )  # fmt: skip
    _say_estimate(ctx, concept, inversions, needed)
    played = adaptive_rounds(
        edited_at, sight, images_N3HW, needed, rounds=how.rounds, search=how.search, how=how.strength,
        rng=rng.child("rounds"), contexts=how.contexts, progress=progress,
    )  # fmt: skip
    if played:
        needed = played[-1].estimate
        _say_rounds(ctx, concept, played)
    log.info("%s: alpha %.3f [%.3f, %.3f]", concept.text, needed.alpha, needed.low, needed.high)
    if not needed.reached:
        log.warning(
            "%s: not even alpha %g keeps the worst embedding at what chance explains of a rate of %.0f %%; the edit "
            "uses it, and is likely to have destroyed the model: look at its utility",
            concept.text, how.strength.largest, 100 * how.strength.threshold,
        )  # fmt: skip
    return needed.alpha, vector


def _say(ctx: Context, concept: Concept, **said: Note) -> None:
    ctx.note(**{f"{concept.text}: {name.replace('_', ' ')}": value for name, value in said.items()})


def _say_estimate(
    ctx: Context, concept: Concept, inversions: InversionSet, needed: Estimate
) -> None:
    """Leaves the estimate in the edit's record: a strength without its interval cannot be judged."""
    _say(
        ctx,
        concept,
        alpha=needed.alpha,
        alpha_low=needed.low,
        alpha_high=needed.high,
        reached=needed.reached,
        embeddings=len(inversions.rates_R),
        embeddings_that_induce=len(inversions.inducing),
    )


def _say_rounds(ctx: Context, concept: Concept, played: Sequence[Round]) -> None:
    """Leaves the rounds in the edit's record: the strength then is the last one's."""
    last = played[-1]
    _say(
        ctx,
        concept,
        rounds=len(played),
        strengths=", ".join(f"{one.estimate.alpha:.3f}" for one in played),
        alpha_after_rounds=last.estimate.alpha,
        reached_after_rounds=last.estimate.reached,
        last_round_found_none=not last.passed,
    )
