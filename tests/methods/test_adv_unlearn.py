"""AdvUnlearn: its attack on small numbers, its latents and its loss on the miniature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng, Role
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from bench.toolkit.inversion import with_places
from methods.adv_unlearn import AdvUnlearn, Slopes, prefix
from methods.shared.distillation import negative_guidance
from methods.shared.partial_sampling import PartialSampler
from methods.shared.waypoints import Routes, Waypoints

RNG = Rng(("adv",))
STAR = Concept(text="star", neighbours=("triangle",))
QUICK = AdvUnlearn.preset("mini", **AdvUnlearn.quick)
WALK = PartialSampler(3, 3.0, "trailing")


# -- the attack ----------------------------------------------------------------------------------


class Toy:
    """A model whose prediction is the first text state, whatever it is told of latents."""

    @staticmethod
    def denoise(x_BChw: Tensor, t_B: Tensor, told: Conditioning) -> Tensor:
        return told.states_BLD[:, 0, :, None, None]


def searched(aims: list[Tensor], slopes: Slopes) -> Tensor:
    """The embeddings of two rows from 0, where a step's aim is the prediction of that step."""
    waypoints = iter(
        [Waypoints(torch.zeros(2, 1), torch.zeros(2), a[..., None, None], a) for a in aims]
    )
    return prefix(
        torch.zeros(2, 1, 3),
        Conditioning,
        Toy(),  # type: ignore[arg-type]  # all that is asked of it
        lambda: next(waypoints),
        steps=len(aims),
        lr=0.1,
        slopes=slopes,
    )[:, 0]


@pytest.mark.parametrize("slopes", ["summed", "own"])
def test_the_first_step_goes_by_its_learning_rate_towards_the_aim(slopes: Slopes) -> None:
    aim = torch.tensor([[1.0, -2, 3], [-4, 5, 6]])
    torch.testing.assert_close(searched([aim], slopes), 0.1 * aim.sign(), atol=1e-5, rtol=0)


def test_slopes_are_summed_over_the_steps_as_released() -> None:
    # After the first step at 0.1 the second aim is 0.1 below: its own slope points back, the sum does not.
    aims = [torch.full((2, 3), 1.0), torch.full((2, 3), 0.0)]
    summed, own = (searched(aims, slopes) for slopes in ("summed", "own"))
    slope, back = -2 * 1.0, 2 * 0.1
    for found, second in ((summed, slope + back), (own, back)):
        mean = (0.9 * 0.1 * slope + 0.1 * second) / (1 - 0.9**2)
        size = (0.999 * 0.001 * slope**2 + 0.001 * second**2) / (1 - 0.999**2)
        expected = 0.1 - 0.1 * mean / size**0.5
        torch.testing.assert_close(found, torch.full((2, 3), expected), atol=1e-4, rtol=0)


def test_the_word_in_front_shifts_the_prompt_by_its_tokens(model: TextToImage) -> None:
    plain = model.tokenize(["a star"])[0].tolist()
    behind = with_places(model, "{} a star", 2)
    assert len(behind.ids_L) == model.length
    assert behind.places_V.tolist() == [1, 2]
    assert behind.ids_L.tolist()[3 : 3 + 3] == plain[1:4]


# -- where it trains -----------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [0, 4])
def test_waypoints_are_the_unedited_models(model: TextToImage, pool: int) -> None:
    texts = ["star", "house"]
    routes = Routes(
        model,
        texts,
        WALK,
        wanted_of=lambda e0, ec: negative_guidance(e0, ec, 1.0),
        pool=pool,
        generator=generator_for("adv"),
    )
    at = routes.draw(torch.tensor([1, 0, 1]), generator_for("adv", 1))
    with torch.no_grad():
        told = model.encode(["house", "star", "house"])
        own = model.denoise(at.x_BChw, at.t_B, told)
        e0 = model.denoise(at.x_BChw, at.t_B, model.encode([""] * 3))
    torch.testing.assert_close(at.own_BChw, own, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(at.wanted_BChw, 2 * e0 - own, atol=1e-4, rtol=1e-3)
    assert set(at.t_B.tolist()) <= set(WALK.timesteps(model).tolist())


def test_a_pool_is_drawn_once_and_holds_each_text(model: TextToImage) -> None:
    routes = Routes(
        model, ["star", "house"], WALK, wanted_of=None, pool=3, generator=generator_for("adv")
    )
    draws = [routes.draw(torch.tensor([0]), generator_for("adv", k)).x_BChw for k in range(12)]
    assert len({d.sum().item() for d in draws}) == 2, "two of three are of each text, rounded up"


# -- the method ----------------------------------------------------------------------------------


def test_layers_and_the_last_norm_change_and_embeddings_do_not(model: TextToImage) -> None:
    names = QUICK.parameters(model)
    left = set(model.having(Role.TEXT_ENCODER)) - set(names)
    assert {n.split(".")[-2] for n in left} == {"token_embedding", "position_embedding"}
    assert any("final_layer_norm" in n for n in names)
    edited = QUICK(model, [STAR], rng=RNG)
    moved = [n for n in names if not torch.equal(edited.parameter(n), model.parameter(n))]
    assert len(moved) > 0.9 * len(names)


def test_the_warm_up_has_no_attack_and_an_attack_serves_several_steps(model: TextToImage) -> None:
    for warmup, alike in ((3, True), (1, False)):
        some, more = (
            QUICK.model_copy(
                update={"iterations": 3, "warmup": warmup, "attack_every": 3, "attack_steps": n}
            )
            for n in (2, 5)
        )
        edits = [method(model, [STAR], rng=RNG).digest for method in (some, more)]
        assert (edits[0] == edits[1]) == alike


def test_presets_are_as_published() -> None:
    fields = ("iterations", "warmup", "lr", "attack_lr", "retain_batch", "vectors", "eta", "pool")
    for name, rest in (
        ("release", (0.5, 29, "summed")),
        ("release-nudity", (0.3, 29, "summed")),
        ("paper", (0.5, 30, "own")),
    ):
        found = AdvUnlearn.preset(name)
        assert tuple(getattr(found, f) for f in fields) == (1000, 200, 1e-5, 1e-3, 5, 1, 1.0, 0)
        assert (found.gamma, found.attack_steps, found.slopes) == rest
        assert (found.start_guidance, found.sampling_steps) == (3.0, 50)
