from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.guidance import ClassifierFree, Guidance, combine_as_sampled
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from methods.sld import SLD, SafeLatentGuidance

RNG = Rng(("sld",))
HEART, MOON = Concept(text="heart"), Concept(text="moon")


def guidance(**fields: float) -> SafeLatentGuidance:
    plain = {"warmup": 0, "scale": 0.5, "threshold": 0.0, "momentum_scale": 0.0, "momentum": 0.0}
    return SafeLatentGuidance.model_validate({"text": "heart", **plain, **fields})


def branches(empty: list[float], away: list[float], prompt: list[float]) -> Tensor:
    """[3, 1, 1, 1, n]."""
    return torch.tensor([empty, away, prompt]).float()[:, None, None, None]


def drawn(*name: object) -> Tensor:
    return torch.randn(3, 2, 4, 5, 6, generator=generator_for("sld", *name))


# -- the rule ------------------------------------------------------------------------------------


def test_a_step_computed_by_hand() -> None:
    # Differences to the concept: -1, -4 (beyond one: cut), 0 (not below lambda), 2 (above).
    eps = branches([1, 1, 1, 1], [3, 3, 3, 3], [2, -1, 3, 5])
    out, nu = guidance(scale=0.5).combine(eps, 2.0, 0, None)
    # mu = .5, 1, 0, 0; gamma = 2 mu; e = 1 + 2 (e_p - 1 - gamma).
    torch.testing.assert_close(out.flatten(), torch.tensor([1.0, -7.0, 5.0, 9.0]))
    assert nu is not None
    torch.testing.assert_close(nu.flatten(), torch.tensor([1.0, 2.0, 0.0, 0.0]))


def test_the_threshold_holds_back_what_lies_above_the_concept_too() -> None:
    eps = branches([0, 0], [1, 1], [1.5, 3])
    out, _ = guidance(scale=10.0, threshold=1.0).combine(eps, 2.0, 0, None)
    torch.testing.assert_close(out.flatten(), torch.tensor([1.0, 6.0]))


def test_momentum_computed_by_hand_over_a_warm_up_of_one_step() -> None:
    eps = branches([0], [1], [0])  # mu = 1 at a scale of 1: gamma is 1 before momentum
    rule = guidance(warmup=1, scale=1.0, momentum_scale=0.5, momentum=0.75)
    out, nu = rule.combine(eps, 2.0, 0, None)
    assert out.item() == 0  # the warm-up: plain guidance ...
    assert nu is not None
    assert nu.item() == 0.25  # ... but the momentum has begun
    out, nu = rule.combine(eps, 2.0, 1, nu)
    assert out.item() == -2 * 1.125
    assert nu is not None
    assert nu.item() == 0.75 * 0.25 + 0.25 * 1.125


def test_a_scale_of_nothing_is_plain_guidance_bit_by_bit() -> None:
    rule = guidance(scale=0.0, threshold=9.0, momentum_scale=0.5, momentum=0.7)
    memory: Tensor | None = None
    for step in range(3):
        eps = drawn(step)
        plain, _ = ClassifierFree().combine(eps[[0, 2]], 7.5, step, None)
        out, memory = rule.combine(eps, 7.5, step, memory)
        assert torch.equal(out, plain)


@pytest.mark.parametrize("step", range(4))
def test_it_acts_from_the_step_after_the_warm_up_on(step: int) -> None:
    eps = drawn("warmup")
    plain, _ = ClassifierFree().combine(eps[[0, 2]], 5.0, step, None)
    out, _ = guidance(warmup=2, threshold=9.0).combine(eps, 5.0, step, None)
    assert torch.equal(out, plain) == (step < 2)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_without_guidance_the_concept_plays_no_part(scale: float) -> None:
    eps = drawn("off")
    out, memory = guidance(threshold=9.0).combine(eps, scale, 5, None)
    assert torch.equal(out, torch.lerp(eps[0], eps[2], scale))
    assert memory is None


@pytest.mark.parametrize("scale", [0.5, 5000.0])
def test_the_rule_has_its_gradient(scale: float) -> None:
    eps = drawn("gradient").double().requires_grad_()
    rule = guidance(scale=scale, threshold=0.1, momentum_scale=0.3, momentum=0.4)

    def two_steps(eps_KBChw: Tensor) -> Tensor:
        first, nu = rule.combine(eps_KBChw, 5.0, 0, None)
        return first + rule.combine(eps_KBChw.flip(-1), 5.0, 1, nu)[0]

    assert torch.autograd.gradcheck(two_steps, (eps[:, :1, :1, :2, :2],))


def test_a_loss_meets_the_momentum_and_the_warm_up_of_its_sampling_step() -> None:
    """Each row as at its own step, after steps that predicted what it does."""
    eps = drawn("as sampled").double()
    rule = guidance(warmup=2, threshold=0.5, momentum_scale=0.9, momentum=0.2)
    steps = [3, 1]
    sampled = combine_as_sampled(rule, eps, 3.0, steps)
    for row, last in enumerate(steps):
        one, memory = eps[:, row : row + 1], None
        for step in range(last + 1):
            expected, memory = rule.combine(one, 3.0, step, memory)
        torch.testing.assert_close(sampled[row : row + 1], expected)
    assert torch.autograd.gradcheck(
        lambda x: combine_as_sampled(rule, x, 3.0, steps[:1]),
        (eps[:, :1, :1, :2, :2].clone().requires_grad_(),),
    )


# -- on the miniature ----------------------------------------------------------------------------


def test_the_prompts_branch_is_the_last_and_the_concepts_the_second(model: TextToImage) -> None:
    told = model.encode(["a red heart in a meadow", "a moon"])
    contexts = [context.states_BLD for context in guidance().contexts(model, told)]
    assert [context.shape for context in contexts] == [told.states_BLD.shape] * 3
    assert torch.equal(contexts[2], told.states_BLD)
    empty, heart = model.encode(["", "heart"]).states_BLD
    for row in range(2):
        torch.testing.assert_close(contexts[0][row], empty)
        torch.testing.assert_close(contexts[1][row], heart)


def test_gradients_reach_the_text_states_through_several_steps(model: TextToImage) -> None:
    edited = SLD.preset("max")(model, [HEART], rng=RNG)
    told = edited.encode(["a red heart"]).detach()
    states = told.states_BLD.requires_grad_()
    latents, memory = model.noise([1], Sampler()), None
    contexts = edited.guidance.contexts(edited, told)
    for step, t in enumerate((900, 600)):
        eps, memory = edited.guide(latents, t, contexts, 5.0, step, memory)
        latents = latents - 0.1 * eps
    latents.square().sum().backward()
    assert states.grad is not None
    assert torch.isfinite(states.grad).all()
    assert states.grad.abs().max() > 0


def test_a_model_with_a_scale_of_nothing_samples_as_the_base(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    same = SLD.preset("max", scale=0.0)(model, [HEART], rng=RNG)
    other = SLD.preset("max")(model, [HEART], rng=RNG)
    base, zero, far = (
        m.sample(["a red heart"], [1], tiny_sampler).images_B3HW for m in (model, same, other)
    )
    # Three rows in a UNet call rather than two: equal up to the order of sums.
    torch.testing.assert_close(zero, base, atol=1e-4, rtol=0)
    assert (far - base).abs().max() > 1e-2


def test_a_rows_image_does_not_depend_on_its_neighbours(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    # Below a threshold that none reaches: an element on it may fall on either side by the last bit.
    spec = SLD.preset("strong", warmup=0, threshold=9.0, scale=10.0)
    edited = spec(model, [HEART], rng=RNG)
    alone = edited.sample(["a red heart"], [3], tiny_sampler).images_B3HW
    beside = edited.sample(["a moon", "a red heart"], [4, 3], tiny_sampler).images_B3HW
    torch.testing.assert_close(beside[1], alone[0], atol=1e-3, rtol=0)


def test_it_fills_the_guidance_with_the_names_of_all_concepts(model: TextToImage) -> None:
    one = SLD()(model, [HEART], rng=RNG)
    assert one.slots == {"guidance"}
    both = SLD()(model, [HEART, MOON], rng=RNG).guidance
    assert isinstance(both, SafeLatentGuidance)
    assert both.text == "heart, moon"
    listed = SLD(text="hate, harm")(model, [HEART], rng=RNG).guidance
    assert isinstance(listed, SafeLatentGuidance)
    assert listed.text == "hate, harm"
    assert Guidance.from_identity(both.identity()) == both


# -- constants and bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("weak-200", (15, 200.0, 0.0, 0.0, 0.0)),
        ("weak-20", (15, 20.0, 0.0, 0.0, 0.0)),
        ("medium", (10, 1000.0, 0.01, 0.3, 0.4)),
        ("strong", (7, 2000.0, 0.025, 0.5, 0.7)),
        ("max", (0, 5000.0, 1.0, 0.5, 0.7)),
    ],
)
def test_presets_are_as_published(preset: str, published: tuple[float, ...]) -> None:
    spec = SLD.preset(preset)
    found = (spec.warmup, spec.scale, spec.threshold, spec.momentum_scale, spec.momentum)
    assert found == published
    assert spec.label == f"sld[{preset}]"
    assert spec.text == ""


@pytest.mark.parametrize(
    "fields",
    [{"warmup": -1}, {"scale": -1.0}, {"momentum_scale": -0.1}, {"momentum": 1.0}, {"delta": 1}],
)
def test_fields_are_checked(fields: Mapping[str, object]) -> None:
    with pytest.raises(ValidationError):
        SLD.model_validate(fields)


def test_no_concepts_are_an_error(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="at least one concept"):
        SLD()(model, [], rng=RNG)
