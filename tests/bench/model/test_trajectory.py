"""Sampling as one function: the same images as ever, and gradients through all of its steps."""

from __future__ import annotations

import pytest
import torch

import bench.model.trajectory as trajectory
from bench.core.rng import generator_for
from bench.model.conditioning import Conditioning
from bench.model.guidance import ClassifierFree, Guidance, NegativePrompt
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from methods.sld import SafeLatentGuidance

SLD = SafeLatentGuidance(
    text="heart", warmup=1, scale=0.5, threshold=0.1, momentum_scale=0.3, momentum=0.4
)
SMALL = {"steps": 3, "size": 16}


@pytest.mark.parametrize("solver", ["dpmpp", "ddim", "euler"])
def test_the_latents_are_those_of_the_image(model: TextToImage, solver: str) -> None:
    sampler = Sampler.model_validate({"solver": solver, **SMALL})
    told = model.encode(["a heart", "a star"])
    with torch.no_grad():
        latents = model.clean_latents(told, model.noise([1, 2], sampler), [1, 2], sampler)
        decoded = model.decode(latents)
    images = model.sample(["a heart", "a star"], [1, 2], sampler).images_B3HW
    torch.testing.assert_close(decoded, images)


def gradient(model: TextToImage, sampler: Sampler, told: Conditioning) -> torch.Tensor:
    states = told.states_BLD.clone().requires_grad_()
    latents = model.clean_latents(told.with_states(states), model.noise([1], sampler), [1], sampler)
    return torch.autograd.grad(latents.square().mean(), states)[0]


@pytest.mark.parametrize("guidance", [ClassifierFree(), NegativePrompt(text="heart"), SLD])
def test_gradients_are_those_without_checkpoints(
    model: TextToImage, guidance: Guidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited, sampler = model.with_guidance(guidance), Sampler.model_validate(SMALL)
    told = model.encode(["a red star"])
    remade = gradient(edited, sampler, told)
    monkeypatch.setattr(trajectory, "_remade", lambda predict, asked: predict(*asked))
    kept = gradient(edited, sampler, told)
    torch.testing.assert_close(remade, kept, rtol=1e-4, atol=1e-9)
    assert remade.any()


def test_the_gradient_is_the_slope(model: TextToImage) -> None:
    edited, sampler = model.with_guidance(SLD), Sampler.model_validate(SMALL)
    told = model.encode(["a red star"])
    grad = gradient(edited, sampler, told)
    way = torch.randn(grad.shape, generator=generator_for("slope")) * grad.abs().mean()
    way = grad + way * 0.1

    @torch.no_grad()
    def value(at: float) -> float:
        moved = told.with_states(told.states_BLD + at * way / way.norm())
        latents = edited.clean_latents(moved, model.noise([1], sampler), [1], sampler)
        return float(latents.double().square().mean())

    slope = (value(0.02) - value(-0.02)) / 0.04
    assert slope == pytest.approx(float((grad * way / way.norm()).sum()), rel=0.05)


@pytest.mark.parametrize("solver", ["dpmpp", "ddim", "euler"])
@torch.no_grad()
def test_two_parts_are_the_whole(exact: TextToImage, solver: str) -> None:
    """But for what a solver remembers: DPM-Solver++ begins its second part at first order."""
    sampler = Sampler.model_validate({"solver": solver, **SMALL})
    told, noise = exact.encode(["a heart", "a star"]), exact.noise([1, 2], sampler).double()
    whole = exact.clean_latents(told, noise, [1, 2], sampler)
    begun = exact.clean_latents(told, noise, [1, 2], sampler, last=1)
    done = exact.clean_latents(told, begun, [1, 2], sampler, first=1)
    apart = float((done - whole).norm() / whole.norm())
    assert apart > 1e-3 if solver == "dpmpp" else apart < 1e-5
    # The first step is the same in all three: whatever they hold inside, they hand over the same.
    # Euler's first noise is a little larger.
    plain = Sampler.model_validate({"solver": "ddim", **SMALL})
    same = exact.clean_latents(told, noise, [1, 2], plain, last=1)
    torch.testing.assert_close(begun, same, rtol=0, atol=0.05)


@pytest.mark.parametrize("solver", ["dpmpp", "ddim", "euler"])
@torch.no_grad()
def test_no_step_before_or_no_step_left_is_bit_for_bit_the_image(
    model: TextToImage, solver: str
) -> None:
    sampler = Sampler.model_validate({"solver": solver, **SMALL})
    prompts, seeds = ["a heart", "a star"], [1, 2]
    images = model.sample(prompts, seeds, sampler).images_B3HW
    noise = model.noise(seeds, sampler)
    begun = model.sample(prompts, [3, 4], sampler, latents_BChw=noise, start=0)
    assert torch.equal(begun.images_B3HW, images)
    clean = model.clean_latents(model.encode(prompts), noise, seeds, sampler)
    done = model.sample(prompts, [3, 4], sampler, latents_BChw=clean, start=3)
    assert torch.equal(done.images_B3HW, images)


def test_a_start_is_one_of_the_samplers_steps_and_has_latents(model: TextToImage) -> None:
    sampler = Sampler.model_validate(SMALL)
    noise = model.noise([1], sampler)
    with pytest.raises(ValueError, match="expected the latents to start step 1 with, got none"):
        model.sample(["a star"], [1], sampler, start=1)
    for start in (-1, 4):
        with pytest.raises(ValueError, match=f"expected steps from 0 to 3, in order, got {start}"):
            model.sample(["a star"], [1], sampler, latents_BChw=noise, start=start)
