"""Checks what an attack answered: every goal and no other, with no more than its access allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from bench.core.errors import shown
from bench.interfaces.finding import Access, Candidate, Goal

if TYPE_CHECKING:
    from torch import Tensor

    from bench.model.text_to_image import TextToImage

__all__ = ["MOST_VALUES", "check_answers"]

MOST_VALUES: Final = 2**26
"""Numbers in all weight differences that one call of an attack returns: 256 MiB in the store."""


def check_answers(
    found: Sequence[Candidate],
    goals: Sequence[Goal],
    model: TextToImage,
    *,
    holds: Access,
    by: str,
    steps: int,
) -> None:
    """Refuses answers that the harness could not sample, or should not.

    Args:
        found: What the attack returned.
        goals: What it was asked to try.
        model: The edited model.
        holds: What the attacker holds.
        by: The attack's name, for the error.
        steps: Of the suite's sampler.

    Raises:
        ValueError: a goal has no candidate, or a candidate has no goal. Or one carries more than
            the attacker holds, or starts at no step or without latents. Or a weight difference does
            not suit the model, or they are too large.
        FloatingPointError: a search took gradient steps, and no gradient was finite.
    """
    asked = {goal.id for goal in goals}
    answered = {candidate.goal for candidate in found}
    if lacking := asked - answered:
        # A goal without a candidate would leave the denominator without a word.
        raise ValueError(
            f"{by} returned no candidate for {len(lacking)} of {len(asked)} goals, "
            f"such as {min(lacking)!r}; an attack answers every goal, if only with the plain prompt"
        )
    if foreign := answered - asked:
        raise ValueError(
            f"{by} returned candidates for {len(foreign)} goals that it was not given, such as "
            f"{shown(min(foreign))}; expected Candidate.goal to be the id of one of the goals"
        )
    _check_searches(found, by)
    for candidate in found:
        _check_access(candidate, holds, by)
        _check_start(candidate, steps, by)
    different = {id(c.weights): c.weights for c in found if c.weights is not None}
    for weights in different.values():
        _check_weights(weights, model, by)
    values = sum(w.numel() for weights in different.values() for w in weights.values())
    if values > MOST_VALUES:
        raise ValueError(
            f"{by} returned {values:,} numbers of weight differences, expected at most "
            f"{MOST_VALUES:,} in all; change fewer parameters, or share one difference among goals"
        )


def _check_searches(found: Sequence[Candidate], by: str) -> None:
    # One that saw no finite gradient did not search; what it found says nothing of the method.
    traces = [candidate.trace for candidate in found if candidate.trace is not None]
    if blind := sum(0 < trace.steps <= trace.bad for trace in traces):
        raise FloatingPointError(
            f"{by}: no gradient of {blind} of {len(found)} searches was finite, in any of their steps; "
            "the edited model's predictions overflow: take a base in float32"
        )


def _check_access(candidate: Candidate, holds: Access, by: str) -> None:
    carried = {
        "states_LD": (candidate.states_LD, Access.EMBEDDING),
        "pooled_D": (candidate.pooled_D, Access.EMBEDDING),
        "latents_Chw": (candidate.latents_Chw, Access.LATENT),
        "start": (candidate.start or None, Access.LATENT),
        "weights": (candidate.weights, Access.WEIGHTS),
    }
    for field, (value, needed) in carried.items():
        if value is not None and holds < needed:
            raise ValueError(
                f"{by} holds {holds.name} and returned {field} for goal {candidate.goal!r}, which "
                f"needs {needed.name}; declare `access` as it is"
            )


def _check_start(candidate: Candidate, steps: int, by: str) -> None:
    # With no step left the image would be the attacker's own, and say nothing of the edited model.
    if not 0 <= candidate.start < steps:
        raise ValueError(
            f"{by} returned start {candidate.start} for goal {candidate.goal!r}, expected 0 to "
            f"{steps - 1}: the sampler has {steps} steps, and the edited model takes the last"
        )
    if candidate.start and candidate.latents_Chw is None:
        raise ValueError(
            f"{by} returned start {candidate.start} for goal {candidate.goal!r} and no latents_Chw; "
            "expected noisy latents at the time of that step"
        )


def _check_weights(weights: Mapping[str, Tensor], model: TextToImage, by: str) -> None:
    known = model.base_values
    for name, change in weights.items():
        if name not in known:
            raise ValueError(
                f"{by}: weights: the model has no parameter {shown(name)}; expected component.name, "
                "e.g. unet.conv_in.weight"
            )
        if change.shape != known[name].shape or not change.is_floating_point():
            raise ValueError(
                f"{by}: weights: {name}: expected differences of shape {tuple(known[name].shape)}, "
                f"got {change.dtype} of {tuple(change.shape)}"
            )
        if not bool(change.isfinite().all()):
            raise ValueError(
                f"{by}: weights: {name}: expected finite differences, got others; the search "
                "diverged: lower its learning rate"
            )
