"""RACE: its search on small numbers, and what it adds to ESD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.text_to_image import TextToImage
from methods.race import RACE, ascend
from methods.shared.unet_parts import trained

RNG = Rng(("race",))
STAR = Concept(text="star")
QUICK = RACE.preset("mini", **RACE.quick)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("race", *shape))


def test_the_search_ends_at_the_corner_of_the_ball_that_is_nearest() -> None:
    # Along each entry the loss falls towards y, which lies outside: ten steps of a quarter reach the edge.
    # Entries at the ends of the range of the states cannot leave it.
    states = torch.zeros(1, 2, 3)
    states[0, 0, 0], states[0, 1, 2] = -5.0, 5.0
    y = torch.tensor([[[-9.0, 2, -2], [3, -3, 9]]])
    found = ascend(
        states,
        lambda s: (s - y).square().sum(),
        epsilon=0.1,
        steps=10,
        generator=generator_for("race"),
    )
    torch.testing.assert_close(found - states, torch.tensor([[[0, 0.1, -0.1], [0.1, -0.1, 0]]]))


@pytest.mark.parametrize("steps", [0, 1, 10])
def test_the_search_stays_in_the_ball_and_in_the_range(steps: int) -> None:
    states, y = drawn(3, 5, 7), 10 * drawn(4, 5, 7)[:3]
    found = ascend(
        states,
        lambda s: (s - y).square().sum(),
        epsilon=0.1,
        steps=steps,
        generator=generator_for("race"),
    )
    assert float((found - states).abs().max()) <= 0.1 + 1e-6
    assert float((found - states).abs().max()) > 0.05
    for row, of in zip(found, states, strict=True):
        assert of.min() <= row.min() and row.max() <= of.max()


def test_rows_are_searched_alone() -> None:
    states, y = drawn(3, 5, 7), 10 * drawn(4, 5, 7)[:3]

    def at(rows: slice) -> Tensor:
        return ascend(
            states[rows], lambda s: (s - y[rows]).square().sum(), epsilon=0.1, steps=4,
            generator=generator_for("race"),
        )  # fmt: skip

    torch.testing.assert_close(at(slice(0, 3))[0], at(slice(0, 1))[0])


def test_without_a_ball_it_is_esd_that_goes_on(model: TextToImage) -> None:
    plain = QUICK.model_copy(update={"epsilon": 0.0, "attack_steps": 0})
    searched = QUICK.model_copy(update={"epsilon": 0.0, "attack_steps": 3})
    wide = QUICK.model_copy(update={"epsilon": 2.0})
    edits = [method(model, [STAR], rng=RNG) for method in (plain, searched, wide)]
    name = QUICK.parameters(model)[0]
    assert torch.equal(edits[0].parameter(name), edits[1].parameter(name))
    assert not torch.equal(edits[0].parameter(name), edits[2].parameter(name))


def test_what_esd_changed_beside_stays_changed(model: TextToImage) -> None:
    spec = RACE(**{**RACE.quick, "start": "repo-2025", "variant": "u"})
    edited = spec(model, [STAR], rng=RNG)
    assert set(edited.weights) == set(spec.parameters(model))
    beside = set(edited.weights) - set(trained(model, "u", "2023"))
    assert any("time_embedding" in name for name in beside)
    assert any(not torch.equal(edited.weights[n], model.parameter(n)) for n in beside)


def test_the_aims_differ(model: TextToImage) -> None:
    wide = {"epsilon": 2.0, "attack_steps": 2}
    one, two = (
        QUICK.model_copy(update={**wide, "aim": aim})(model, [STAR], rng=RNG)
        for aim in ("start_noise", "teacher")
    )
    assert one.digest != two.digest


def test_presets_are_as_published() -> None:
    for name, aim in (("release", "start_noise"), ("paper", "teacher")):
        found = RACE.preset(name)
        assert (found.aim, found.epsilon, found.attack_steps) == (aim, 0.1, 10)
        assert (found.iterations, found.lr, found.batch_size, found.eta) == (1000, 1e-5, 1, 1.0)
        assert (found.start, found.start_guidance, found.sampling_steps) == ("paper-2023", 3.0, 50)
