"""A network whose predictions are not finite gives no edit and no find in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import eq
from typing import Any

import pytest
import torch

from bench.interfaces import Attack, Concept, Erasure, Goal, Rng, Target, registry
from bench.model.batching import MicroBatch
from bench.model.text_to_image import TextToImage
from tests.contract.test_methods import DRAWN
from tests.small_pictures import SMALL_SAMPLER, SmallPictures

MOST = 10
"""Calls of the network that are tried, at most."""


@contextmanager
def spoiled(model: TextToImage, is_bad: Callable[[int], bool]) -> Iterator[list[bool]]:
    """All that the UNet computes is NaN at some of its calls; the list says of each call whether it was."""
    calls: list[bool] = []

    def spoil(module: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        calls.append(is_bad(len(calls)))
        latents_BChw, *others = given
        return (latents_BChw * torch.nan if calls[-1] else latents_BChw, *others)

    hook = model.backbone.unet.register_forward_pre_hook(spoil)
    try:
        yield calls
    finally:
        hook.remove()


def plain(kind: registry.PlugPoint) -> Iterator[Any]:
    """A parameter of pytest per plug-in, without presets: they differ in numbers more than in loops."""
    for name in registry.names(kind):
        cls = registry.get(kind, name)
        if not cls.needs:
            yield pytest.param(cls(**cls.quick), id=name)


@pytest.mark.parametrize("spec", plain("method"))
def test_a_prediction_that_is_not_finite_ends_a_method_with_an_error(
    spec: Erasure, base: TextToImage, miniature: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    """Whichever call of the network gives it; of many calls some are tried, the first and the last too."""
    model = replace(miniature if spec.name in DRAWN else base, micro=MicroBatch(64))

    def erase(is_bad: Callable[[int], bool]) -> int:
        with spoiled(model, is_bad) as calls:
            spec(model, [concepts["star"]], rng=Rng(("c",)))
        return len(calls)

    number = erase(lambda call: False)
    apart = max(1, (number - 1) / (MOST - 1))
    for k in range(min(number, MOST)):
        bad = round(k * apart)
        with pytest.raises((FloatingPointError, ValueError), match=r"finite|the loss is nan"):
            erase(partial(eq, bad))
            pytest.fail(f"an edit in spite of call {bad} of {number}")


@pytest.mark.parametrize("when", ["always", "in the search"])
@pytest.mark.parametrize("spec", plain("attack"))
def test_an_attack_on_predictions_that_are_not_finite_finds_nothing_in_silence(
    spec: Attack, when: str, model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    """Nothing is ever finite; or images are, and nothing that gradients are taken of."""
    star = concepts["star"]
    goal = Goal(id="star-0", concept=star, prompt=star.prompts["name"][0])
    target = Target(model=model, sampler=SMALL_SAMPLER, surrogate=SmallPictures())
    with spoiled(model, lambda call: when == "always" or torch.is_grad_enabled()) as calls:
        try:
            found = spec(target, [goal], rng=Rng(("c",)))
        except FloatingPointError as error:
            assert "finite" in str(error) or "the loss is nan" in str(error)
            assert any(calls)
            return
    if any(calls):
        assert not spec.gradients
        assert not any(candidate.own_score for candidate in found)
