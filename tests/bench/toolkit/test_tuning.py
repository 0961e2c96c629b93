"""Optimisers, against their published updates computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytest
import torch

from bench.core.rng import generator_for
from bench.model.text_to_image import TextToImage, load_model
from bench.toolkit.tuning import Optimiser, tune

W, G = 0.5, 0.25  # one parameter, and the gradient of its every step


def trained(rule: Literal["adamw", "adam", "sgd"], steps: int, fields: Mapping[str, Any]) -> float:
    leaf = torch.tensor([W], dtype=torch.float64, requires_grad=True)
    engine = Optimiser(steps, 0.1, rule, **fields).over([leaf])
    for _ in range(steps):
        leaf.grad = torch.full_like(leaf, G)
        engine.step()
    return float(leaf.detach())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, W - 0.1 * G / (G + 1e-8)),
        ({"eps": 1.0}, W - 0.1 * G / (G + 1)),
        # L2: the decay is a part of the gradient that the moments see.
        ({"eps": 1.0, "weight_decay": 0.5}, W - 0.1 * (G + 0.5 * W) / (G + 0.5 * W + 1)),
    ],
)
def test_a_step_of_adam(fields: Mapping[str, Any], expected: float) -> None:
    assert trained("adam", 1, fields) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"eps": 1.0}, W - 0.1 * G / (G + 1)),
        # Decoupled: the decay shrinks the parameter and no moment sees it.
        ({"eps": 1.0, "weight_decay": 0.5}, W * (1 - 0.1 * 0.5) - 0.1 * G / (G + 1)),
    ],
)
def test_a_step_of_adamw(fields: Mapping[str, Any], expected: float) -> None:
    assert trained("adamw", 1, fields) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_step_of_gradient_descent(decay: float) -> None:
    assert trained("sgd", 1, {"weight_decay": decay}) == pytest.approx(W - 0.1 * (G + decay * W))


def test_a_schedule_is_the_factor_of_each_steps_learning_rate(model: TextToImage) -> None:
    name, factors = "unet.conv_in.bias", (0.0, 1.0, 0.5)
    how = Optimiser(3, 0.1, "sgd", schedule=factors.__getitem__)
    found = tune(model, [name], lambda live, step: live.weights[name].sum(), how)
    torch.testing.assert_close(found[name], model.parameter(name) - 0.1 * sum(factors))


def test_a_moving_average_begins_at_the_start_and_decays_as_it_says(model: TextToImage) -> None:
    """Three steps of gradient descent written out: (1 + k)/(10 + k) is 0.1, then 2/11, then 3/12."""
    name = "unet.conv_in.bias"
    start = model.parameter(name).double()

    def loss_of(live: TextToImage, step: int) -> torch.Tensor:
        return live.weights[name].sum() * (1.0, -2.0, 4.0)[step]

    steps = (start - 0.1, start - 0.1 + 0.2, start - 0.1 + 0.2 - 0.4)
    by_hand = 0.1 * start + 0.9 * steps[0]
    by_hand = 2 / 11 * by_hand + 9 / 11 * steps[1]
    by_hand = 3 / 12 * by_hand + 9 / 12 * steps[2]
    averaged = tune(model, [name], loss_of, Optimiser(3, 0.1, "sgd", ema=True))
    last = tune(model, [name], loss_of, Optimiser(3, 0.1, "sgd"))
    torch.testing.assert_close(averaged[name].double(), by_hand, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last[name].double(), steps[2], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(averaged[name], last[name])


def test_betas_are_of_the_first_and_of_the_second_moment() -> None:
    moments = torch.zeros(2, dtype=torch.float64)
    betas = torch.tensor([0.5, 0.75], dtype=torch.float64)
    leaf = torch.tensor([W], dtype=torch.float64, requires_grad=True)
    engine = Optimiser(2, 0.1, "adam", betas=(0.5, 0.75), eps=1.0).over([leaf])
    by_hand = W
    for step, g in enumerate((G, -2 * G), start=1):
        leaf.grad = torch.tensor([g], dtype=torch.float64)
        engine.step()
        moments = betas * moments + (1 - betas) * torch.tensor([g, g * g], dtype=torch.float64)
        first, second = (moments / (1 - betas**step)).tolist()
        by_hand -= 0.1 * first / (second**0.5 + 1)
    assert float(leaf.detach()) == pytest.approx(by_hand, rel=1e-9)


def test_a_pass_without_gradients_takes_none_from_the_pass_that_trains() -> None:
    """Autocast's cache may keep the copies of values that the first pass made, without their gradient.

    Whether it does hangs on the version of torch, so the cache itself is looked at too.
    """
    half = load_model("miniature", dtype="bfloat16")
    names = [n for n in half.backbone.parameters if n.endswith("attn2.to_k.weight")]
    x = torch.randn(2, *half.latent_shape, generator=generator_for("mixed")).to(torch.bfloat16)
    with torch.no_grad():
        states = half.encode(["a heart", "a star"])

    cached: list[bool] = []

    def loss_of(live: TextToImage, step: int) -> torch.Tensor:
        cached.append(torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled())
        with torch.no_grad():
            before = live.denoise(x, 500, states)
        return (live.denoise(x, 500, states).float() - before.float() - 1).square().mean()

    values = tune(half, names, loss_of, Optimiser(1, 0.1))
    assert cached == [False]
    for name in names:
        assert not torch.equal(values[name], half.parameter(name).float()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_noised_latents_are_the_schedules_rounded_once(
    model: TextToImage, dtype: torch.dtype
) -> None:
    from diffusers import DDPMScheduler

    total = int(model.backbone.scheduler_config["num_train_timesteps"])
    t = torch.arange(total)
    x, e = (
        torch.randn(total, 2, 2, 2, generator=generator_for("noised", k)).to(dtype) for k in "xe"
    )
    alphas = DDPMScheduler.from_config(model.backbone.scheduler_config).alphas_cumprod
    a = alphas[:, None, None, None]
    expected = (a.sqrt() * x.float() + (1 - a).sqrt() * e.float()).to(dtype)
    found = model.schedule.add_noise(x, e, t)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
