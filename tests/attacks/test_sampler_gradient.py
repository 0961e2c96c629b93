from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from attacks.sampler_gradient import SamplerGradient, _Loss, _Momentum, views
from bench.core.errors import UsageError
from bench.core.meter import Meter
from bench.core.rng import generator_for
from bench.interfaces import Concept, Context, Goal, Rng, Target, bare
from bench.model.text_to_image import TextToImage
from methods.sld import SLD
from tests.small_pictures import SMALL_SAMPLER, SmallPictures

RNG = Rng(("through",))
FEW = SamplerGradient(steps=8, noises=2, views=2, lr=0.02)


def goals_of(concepts: Mapping[str, Concept]) -> list[Goal]:
    return [
        Goal(name, concepts[name], concepts["moon"].prompts["name"][0])
        for name in ("heart", "star")
    ]


@pytest.fixture
def target(model: TextToImage) -> Target:
    return Target(model, SMALL_SAMPLER, SmallPictures())


def test_the_loss_falls_through_a_guidance_that_remembers(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    edited = SLD.preset("mini")(target.model, [bare(concepts["heart"])], rng=RNG)
    there, goals = replace(target, model=edited), goals_of(concepts)
    loss = _Loss.of(FEW, there, goals, Context(RNG))
    told = edited.encode([goal.prompt for goal in goals])
    first, _, _ = loss.gradient(told, told.said, 0)
    found = FEW(there, goals, rng=RNG)
    states = torch.stack([c.states_LD for c in found if c.states_LD is not None])
    last, _, _ = loss.gradient(told, [states], 0)
    assert (last < first).all()


def test_the_gradient_is_the_slope_of_the_loss(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    goals = goals_of(concepts)
    loss = _Loss.of(FEW, target, goals, Context(RNG))
    told = target.model.encode([goal.prompt for goal in goals])
    states = told.states_BLD.detach()
    _, _, (grad,) = loss.gradient(told, [states], 3)
    way = grad / grad.flatten(1).norm(dim=1)[:, None, None]
    ahead, _, _ = loss.gradient(told, [states + 0.01 * way], 3)
    behind, _, _ = loss.gradient(told, [states - 0.01 * way], 3)
    slope = (ahead - behind) / 0.02
    torch.testing.assert_close(slope, grad.flatten(1).norm(dim=1), rtol=0.1, atol=1e-3)


def test_the_first_step_follows_the_gradient_and_a_row_knows_no_other() -> None:
    grad = torch.tensor([[3e-5, -4e-5], [3.0, 0.0]])
    how = _Momentum(grad)
    expected = grad / grad.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(how.direction(grad, 0), expected)
    alone = _Momentum(grad[:1])
    alone.direction(grad[:1], 0)
    second = torch.tensor([[1.0, 1.0], [-9.0, 4.0]])
    torch.testing.assert_close(how.direction(second, 1)[:1], alone.direction(second[:1], 1))


class Indifferent(SmallPictures):
    """It scores every image alike, with a gradient of zero."""

    name: ClassVar[str] = "indifferent"

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        return 0.5 + 0 * images_B3HW.flatten(1).sum(1, keepdim=True)


def test_steps_without_a_gradient_are_counted(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    spec = SamplerGradient(steps=2, noises=1, views=1, pull=0.0)
    cost = Meter()
    there = replace(target, model=target.model.with_meter(cost), surrogate=Indifferent())
    found = spec(there, goals_of(concepts), rng=RNG)
    assert {(c.trace.zero, c.trace.bad) for c in found if c.trace is not None} == {(2, 0)}
    assert cost.gradient_steps == 2, "a step of all goals counts once"


def test_views_are_near_the_image_and_the_first_is_it() -> None:
    image = torch.rand(3, 16, 16, generator=generator_for("image"))
    shown = views(image, 5, generator_for("views"))
    assert shown.shape == (5, 3, 16, 16)
    assert torch.equal(shown[0], image)
    assert len({float(view.mean()) for view in shown}) == 5
    assert shown.min() >= 0
    assert shown.max() <= 1
    flat = views(torch.full((3, 16, 16), 0.5), 9, generator_for("flat"))
    assert (flat - 0.5).abs().max() < 0.05 + 0.02 * 6
    assert torch.equal(views(image, 1, generator_for("one")), image[None])


def test_views_hand_gradients_on() -> None:
    image = torch.rand(3, 8, 8, generator=generator_for("image")).requires_grad_()
    views(image, 4, generator_for("views")).sum().backward()
    assert image.grad is not None
    assert (image.grad > 0).all()


class Blind(SmallPictures):
    """No gradient passes through it."""

    name: ClassVar[str] = "blind"

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        return super().scores(images_B3HW.detach(), concept)


def test_a_judge_without_gradients_is_refused(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    with pytest.raises(UsageError, match="a surrogate that gradients pass through"):
        FEW(replace(target, surrogate=Blind()), goals_of(concepts), rng=RNG)
