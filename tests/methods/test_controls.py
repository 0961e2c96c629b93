from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from bench.interfaces import Concept, Rng
from bench.model.guidance import NegativePrompt
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from methods.destroyed import Destroyed
from methods.negative_prompt import NegativePromptErasure
from methods.none import NoErasure

RNG = Rng(("controls",))
STAR, SKETCH = Concept(text="star"), Concept(text="sketch")


def test_no_erasure_is_the_model_itself(model: TextToImage) -> None:
    assert NoErasure()(model, [STAR], rng=RNG) is model
    assert NoErasure.control
    assert not NoErasure.slots


def test_destroying_changes_the_last_convolution_alone(model: TextToImage) -> None:
    destroyed = Destroyed()(model, [STAR], rng=RNG)
    assert list(destroyed.weights) == ["unet.conv_out.weight"]
    assert Destroyed.control


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_noise_is_as_large_as_the_layer_was(model: TextToImage, scale: float) -> None:
    name = "unet.conv_out.weight"
    noise = Destroyed(scale=scale)(model, [STAR], rng=RNG).parameter(name)
    was = model.parameter(name)
    assert noise.std().item() == pytest.approx(scale * was.std().item(), rel=0.1)
    together = torch.stack([noise.flatten(), was.flatten()])
    assert torch.corrcoef(together)[0, 1].abs() < 0.15


def test_the_noise_comes_from_the_rng(model: TextToImage) -> None:
    one, same, other = (
        Destroyed()(model, [STAR], rng=Rng(key)).digest for key in ((1,), (1,), (2,))
    )
    assert one == same != other


def test_a_scale_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError):
        Destroyed(scale=0.0)


def test_a_destroyed_models_predictions_say_nothing_of_the_true_ones(model: TextToImage) -> None:
    destroyed = Destroyed()(model, [STAR], rng=RNG)
    x = model.noise(range(4), Sampler())
    states = model.encode(["a red star"] * 4)
    true, noise = (m.denoise(x, 500, states).flatten() for m in (model, destroyed))
    assert torch.corrcoef(torch.stack([true, noise]))[0, 1].abs() < 0.6


def test_a_negative_prompt_names_the_concepts(model: TextToImage) -> None:
    one = NegativePromptErasure()(model, [STAR], rng=RNG)
    assert one.guidance == NegativePrompt(text="star")
    both = NegativePromptErasure()(model, [STAR, SKETCH], rng=RNG)
    assert both.guidance == NegativePrompt(text="star, sketch")
    spaced = NegativePromptErasure(separator=" ")(model, [STAR, SKETCH], rng=RNG)
    assert spaced.guidance == NegativePrompt(text="star sketch")
    assert not one.weights
    assert not one.filters


def test_a_weighted_negative_prompt_is_composable_diffusions_negation(model: TextToImage) -> None:
    edited = NegativePromptErasure(weight=1.5)(model, [STAR], rng=RNG)
    assert NegativePromptErasure.preset("mini").weight != 1
    x, states = model.noise([3], Sampler()), model.encode(["a red star"])
    empty, star, said = (
        model.denoise(x, 500, model.encode([t])) for t in ("", "star", "a red star")
    )
    for scale in (0.0, 1.0, 3.0):
        out, memory = edited.guide(x, 500, edited.guidance.contexts(edited, states), scale)
        wanted = empty + scale * (said - empty) - (scale - 1) * 1.5 * (star - empty)
        torch.testing.assert_close(out, wanted, atol=1e-4, rtol=1e-4)
        assert memory is None
    # Its plain form costs no third branch, and nearly the same weight is nearly the same guidance.
    near, plain = (NegativePrompt(text="star", weight=w) for w in (1.0001, 1.0))
    branches = [len(guidance.contexts(model, states)) for guidance in (near, plain)]
    assert branches == [3, 2]
    guided = [
        model.with_guidance(g).guide(x, 500, g.contexts(model, states), 3.0)[0]
        for g in (near, plain)
    ]
    torch.testing.assert_close(*guided, atol=1e-2, rtol=0)


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_a_weight_that_makes_no_sense_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        NegativePromptErasure(weight=weight)


def test_a_negative_prompt_does_nothing_without_guidance(model: TextToImage) -> None:
    negative = NegativePromptErasure()(model, [STAR], rng=RNG)
    off = Sampler(steps=2, guidance_scale=1.0)
    images = [m.sample(["a star"], [1], off).images_B3HW for m in (model, negative)]
    torch.testing.assert_close(images[0], images[1], atol=1e-4, rtol=0)
