from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.guidance import ClassifierFree, NegativePrompt, combine_as_sampled
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from methods.safree import Safree, SafreeGuidance, TokenFilter, basis_of

HEART, SKETCH = Concept(text="heart"), Concept(text="sketch", family="style")
RNG = Rng(("safree",))
E1, E2, E3 = torch.eye(4)[:3]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator_for("safree", *shape))


def filter_of(masked: list[Tensor], concept: Tensor = E1[None], alpha: float = 0.01) -> TokenFilter:
    """Of one prompt with as many tokens as there are masked states, and room for one more."""
    length = len(masked) + 3
    real_BL = torch.tensor([[0 < i <= len(masked) for i in range(length)]])
    states = torch.stack([*masked, torch.zeros(4)])[None]
    return TokenFilter(real_BL, torch.tensor([len(masked) + 1]), states, concept, alpha)


# -- the rule ------------------------------------------------------------------------------------


def test_the_trigger_is_the_token_whose_absence_takes_the_prompt_away_from_the_concept() -> None:
    # Distances to the span of e1: 0, 0.8, 2; the means of the others are 1.4, 1, 0.4.
    found = filter_of([E1, 0.6 * E1 + 0.8 * E2, 2 * E3])
    assert found.triggers_BL.tolist() == [[False, False, False, True, False, False]]


def test_no_token_is_a_trigger_where_much_more_than_the_mean_is_asked_for() -> None:
    assert not filter_of([E1, E2, 2 * E3], alpha=1e6).triggers_BL.any()


def test_a_single_token_is_always_a_trigger() -> None:
    assert filter_of([E2], alpha=1e6).triggers_BL.tolist() == [[False, True, False, False]]


def test_a_state_is_projected_on_the_masked_prompts_and_then_off_the_concept() -> None:
    found = filter_of([E1 + E2, E2])  # their span is that of e1 and e2
    states = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).expand(1, 5, 4)
    expected = torch.tensor([0.0, 2.0, 0.0, 0.0]).double().expand(1, 5, 4)
    torch.testing.assert_close(found.projected(states), expected)


def test_nothing_is_left_of_a_prompt_that_lies_in_the_concept() -> None:
    found = filter_of([E1, 2 * E1])
    torch.testing.assert_close(found.projected(drawn(1, 5, 4)), torch.zeros(1, 5, 4).double())


def test_a_basis_spans_its_rows_and_counts_none_twice() -> None:
    rows = torch.stack([E1, 2 * E1, E1 + E2, torch.zeros(4)])
    basis = basis_of(rows)
    projector = basis.T @ basis
    torch.testing.assert_close(projector, torch.diag(torch.tensor([1.0, 1, 0, 0])))
    torch.testing.assert_close(projector @ projector, projector)


@pytest.mark.parametrize(
    ("beta", "last"), [(0.45, 0), (0.50, 2), (0.5333, 5), (0.60, 10)]
)  # methods-2.md, 11
def test_the_last_step_is_almost_a_switch(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch, beta: float, last: int
) -> None:
    """Each token's state is turned by one angle, whose cosine is 1 - beta."""
    turned = torch.tensor([1.0 - beta, math.sqrt(1 - (1 - beta) ** 2)]).double()

    def projected(self: TokenFilter, states_BLD: Tensor) -> Tensor:
        return torch.nn.functional.pad(turned, (0, states_BLD.shape[-1] - 2)).expand(
            states_BLD.shape
        )

    monkeypatch.setattr(TokenFilter, "projected", projected)
    told = model.encode(["a heart"])
    along = torch.zeros_like(told.states_BLD)
    along[..., 0] = 1
    assert rule().start(model, replace(told, states_BLD=along)).tolist() == [last]


def rule(**fields: object) -> SafreeGuidance:
    return SafreeGuidance.model_validate({"texts": ("heart",), **fields})


# -- on prompts ----------------------------------------------------------------------------------


def test_only_triggers_change_and_start_end_and_padding_never_do(model: TextToImage) -> None:
    told = model.encode(["a heart in the snow", "a star"])
    _, filtered, prompt = rule().contexts(model, told)
    changed_BL = (filtered.states_BLD != prompt.states_BLD).any(-1)
    found = TokenFilter.of(model, told.ids[0], ("heart",), 0.01)
    assert torch.equal(changed_BL, found.triggers_BL)
    assert changed_BL.any()
    assert not changed_BL[:, 0].any()
    assert not (changed_BL & ~found.real_BL).any()
    assert torch.equal(prompt.states_BLD, told.states_BLD)


def test_a_masked_prompt_has_the_first_token_of_the_vocabulary_in_place_of_one_of_its_own(
    model: TextToImage,
) -> None:
    ids = model.tokenize(["a heart"])
    states = []
    for place in (1, 2):
        masked = ids.clone()
        masked[0, place] = 0
        end = int((ids[0] == model.end_of_text).int().argmax())
        states.append(model.encode_ids(masked).states_BLD[0, end])
    concept = model.encode(["heart"]).states_BLD[0, [2]]
    apart = [(s - concept[0] * (s @ concept[0]) / (concept[0] @ concept[0])).norm() for s in states]
    larger = int(apart[1] > apart[0])
    found = TokenFilter.of(model, ids, ("heart",), 0.0)
    assert found.triggers_BL[0, 1:3].tolist() == [larger == 0, larger == 1]


def test_a_row_does_not_depend_on_the_others(model: TextToImage) -> None:
    prompts = ["a heart", "", "a small blue square next to a heart", "a heart"]
    together = model.encode(prompts)
    _, filtered, _ = rule().contexts(model, together)
    last = rule().start(model, together)
    for i, prompt in enumerate(prompts):
        alone = model.encode([prompt])
        torch.testing.assert_close(
            filtered.states_BLD[[i]], rule().contexts(model, alone)[1].states_BLD
        )
        assert rule().start(model, alone).tolist() == last[[i]].tolist()


def test_an_empty_prompt_is_left_as_it_is(model: TextToImage) -> None:
    told = model.encode(["", "a heart"])
    _, filtered, prompt = rule().contexts(model, told)
    assert torch.equal(filtered.states_BLD[0], prompt.states_BLD[0])
    for validated in (True, False):
        assert rule(validate_filter=validated).start(model, told)[0] == -1


def test_states_without_token_ids_are_not_filtered(model: TextToImage) -> None:
    told = model.encode(["a heart"])
    bare = told.with_states(told.states_BLD * 1.5)
    injected = type(told)(bare.states_BLD)
    _, filtered, prompt = rule().contexts(model, injected)
    assert filtered is prompt
    assert rule().start(model, injected).tolist() == [-1]


# -- branches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(4))
def test_the_filtered_prompt_is_seen_up_to_the_last_step_of_its_row(step: int) -> None:
    eps = drawn(3, 3, 4, 5, 6)
    out, memory = rule().combine(eps, 5.0, step, torch.tensor([-1.0, 1.0, torch.inf]))
    for row, last in enumerate((-1, 1, 99)):
        prompt = eps[1 if step <= last else 2, row]
        assert torch.equal(out[row], torch.lerp(eps[0, row], prompt, 5.0))
    assert memory is not None


def test_a_loss_meets_the_filter_of_its_sampling_step() -> None:
    eps = drawn(3, 2, 1, 2, 2).double().requires_grad_()
    memory = torch.tensor([1.0, 1.0])
    out = combine_as_sampled(rule(), eps, 3.0, [1, 2], memory)
    assert torch.equal(out[0], torch.lerp(eps[0, 0], eps[1, 0], 3.0))
    assert torch.equal(out[1], torch.lerp(eps[0, 1], eps[2, 1], 3.0))


@pytest.mark.parametrize("negative", [True, False])
def test_without_a_filter_it_is_plain_guidance_or_a_negative_prompt(
    model: TextToImage, negative: bool
) -> None:
    edited = Safree(alpha=1e6, negative=negative)(model, [HEART], rng=RNG)
    plain = NegativePrompt(text="heart") if negative else ClassifierFree()
    # A single token is always a trigger, so the prompts have several.
    prompts = ["a heart in the snow", "a star"]
    for sampled in (edited, model.with_guidance(plain)):
        images = sampled.sample(prompts, [1, 2], Sampler(steps=3)).images_B3HW
        if sampled is edited:
            filtered = images
    torch.testing.assert_close(filtered, images, atol=2e-4, rtol=0)


def test_the_presets_are_the_authors_constants(model: TextToImage) -> None:
    def guidance(preset: str, *concepts: Concept) -> SafreeGuidance:
        made = Safree.preset(preset)(model, list(concepts), rng=RNG).guidance
        assert isinstance(made, SafreeGuidance)
        return made

    style, thing = guidance("release", SKETCH), guidance("release", HEART)
    assert (style.steepness, style.middle, style.most) == (3.5, 5.5, 10)
    assert (thing.steepness, thing.middle, thing.alpha) == (2.5, 5.333, 0.01)
    assert thing.negative == "heart"
    assert guidance("alone", HEART, SKETCH).negative == ""
    assert guidance("release", HEART, SKETCH).negative == "heart, sketch"
    assert guidance("mini", HEART).start(model, model.encode(["a heart"])).tolist() == [torch.inf]
