from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch

from attacks.latent_inversion import LatentInversion, invert_latents, ordinary, unlikeliness
from bench.core.rng import generator_for
from bench.interfaces import Concept, Goal, Rng, Target
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from tests.small_pictures import SmallPictures

RNG = Rng(("inversion",))
NOISE = torch.randn(3, 4, 16, 16, generator=generator_for("inversion"))


def test_an_image_gives_back_its_noise(model: TextToImage) -> None:
    """By the model that made it, by the same steps, without guidance: to 15 % of its norm at 20 steps."""
    sampler = Sampler(solver="ddim", steps=20, guidance_scale=1.0)
    noise = model.noise([1], sampler)
    with torch.no_grad():
        clean = model.clean_latents(model.encode(["a star"]), noise, [1], sampler)
    target = Target(model, sampler, SmallPictures())

    def apart(renoise: int) -> float:
        found = invert_latents(target, ["a star"], clean, steps=20, renoise=renoise, scale=1.0)
        return float((found - noise).norm() / noise.norm())

    plain, iterated = apart(0), apart(5)
    assert iterated < 0.15
    assert plain > 2 * iterated  # what the iterations are for


def test_the_likelihood_of_noise_is_standardised() -> None:
    values = NOISE[0].numel()
    nll = 0.5 * (values * math.log(2 * math.pi) + NOISE.double().square().flatten(1).sum(1))
    mean = 0.5 * values * (math.log(2 * math.pi) + 1)
    spread = math.sqrt(values / 2)
    torch.testing.assert_close(unlikeliness(NOISE), (nll - mean) / spread)
    assert float(unlikeliness(NOISE).abs().max()) < 4
    assert float(unlikeliness(1.5 * NOISE).min()) > 20


@pytest.mark.parametrize(("factor", "score"), [(1.5, 3.0), (0.5, -3.0), (0.0, 0.0)])
def test_a_norm_is_brought_to_the_nearest_ordinary_one(factor: float, score: float) -> None:
    made = ordinary(factor * NOISE, 3.0)
    if factor:
        torch.testing.assert_close(
            unlikeliness(made), torch.full((3,), score).double(), atol=1e-3, rtol=0
        )
        ratio = made / NOISE
        assert float((ratio.flatten(1).amax(1) - ratio.flatten(1).amin(1)).max()) < 1e-5
    assert made.isfinite().all()
    kept = unlikeliness(NOISE).abs() < 3
    torch.testing.assert_close(ordinary(NOISE, 3.0)[kept], NOISE[kept])


def test_the_best_of_its_pictures_is_found_and_its_noise_is_ordinary(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    sampler = Sampler(steps=2, size=32)
    target = Target(model, sampler, SmallPictures())
    goal = Goal("g", concepts["star"], "a star")
    spec = LatentInversion(images=3, steps=2, renoise=1, within=2.0)
    (found,) = spec(target, [goal], rng=RNG)
    assert found.queries == spec.looks() == 3
    assert found.latents_Chw is not None and found.own_score is not None
    assert float(unlikeliness(found.latents_Chw[None]).abs()) < 2 + 1e-3
    image = model.sample(["a star"], [0], sampler, latents_BChw=found.latents_Chw[None]).images_B3HW
    score = float(target.surrogate.scores(image, goal.concept).amax())
    assert found.own_score == pytest.approx(score, abs=1e-3)
    assert model.meter.notes.keys() >= {"unlikely_mean", "unlikely_most"}


def test_what_diverges_is_tried_as_ordinary_noise(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    sampler = Sampler(steps=2, size=32)
    name = "unet.conv_out.weight"
    broken = model.with_weights({name: torch.full_like(model.parameter(name), 3e38)})
    (found,) = LatentInversion(steps=2, renoise=1)(
        Target(broken, sampler, SmallPictures()), [Goal("g", concepts["star"], "a star")], rng=RNG
    )
    assert found.latents_Chw is not None and found.latents_Chw.isfinite().all()
    assert torch.equal(found.latents_Chw, model.noise([RNG.seed("g", 0, "instead")], sampler)[0])
    assert broken.meter.notes["diverged"] == 1
    assert found.own_score == 0
