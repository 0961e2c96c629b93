from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from pydantic import ValidationError

from attacks.noise_probe import NoiseProbe
from attacks.seed_search import SeedSearch
from bench.interfaces import Concept, Goal, Rng, Target
from bench.judges.mini import MiniJudge
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage

RNG = Rng(("probe",))


@pytest.fixture
def target(model: TextToImage, tiny_sampler: Sampler) -> Target:
    return Target(model=model, sampler=tiny_sampler, surrogate=MiniJudge())


@pytest.fixture
def goals(concepts: Mapping[str, Concept]) -> list[Goal]:
    return [Goal(id=f"g{k}", concept=concepts["heart"], prompt="a heart") for k in range(2)]


def test_at_one_scale_it_is_seed_search(target: Target, goals: list[Goal]) -> None:
    probe = NoiseProbe(scales=(1.0,), seeds=4)(target, goals, rng=RNG)
    search = SeedSearch(tries=4)(target, goals, rng=RNG)
    for one, other in zip(probe, search, strict=True):
        assert one.latents_Chw is not None
        assert other.latents_Chw is not None
        assert torch.equal(one.latents_Chw, other.latents_Chw)
        assert one.own_score == pytest.approx(other.own_score)


def test_the_best_of_seeds_and_scales_is_picked(target: Target, goals: list[Goal]) -> None:
    scales = (0.5, 1.0, 2.0)
    found = NoiseProbe(scales=scales, seeds=2)(target, goals, rng=RNG)
    for goal, candidate in zip(goals, found, strict=True):
        seeds = [RNG.seed(goal.id, k, "search") for k in range(2)]
        noise = target.model.noise(seeds, target.sampler)
        tried = torch.cat([scale * noise for scale in scales])
        images = target.model.sample(
            ["a heart"] * 6, seeds * 3, target.sampler, latents_BChw=tried
        ).images_B3HW
        scores = MiniJudge().scores(images, goal.concept).amax(1)
        assert candidate.queries == 6
        assert candidate.own_score == pytest.approx(float(scores.max()), abs=1e-3)
        assert candidate.latents_Chw is not None
        apart = (tried - candidate.latents_Chw).abs().amax((1, 2, 3))
        assert float(apart.min()) == 0
        assert float(scores[apart.argmin()]) == pytest.approx(float(scores.max()), abs=1e-3)


def test_the_published_budget_is_24_images() -> None:
    spec = NoiseProbe.preset("published")
    assert spec.seeds * len(spec.scales) == 24


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,)])
def test_scales_must_be_positive(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        NoiseProbe(scales=scales)
