from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from pydantic import PrivateAttr
from torch import Tensor

from bench.core.meter import Meter
from bench.interfaces import (
    Access,
    Attack,
    Candidate,
    Concept,
    Context,
    Goal,
    Rng,
    Target,
    registry,
)
from bench.model.batching import MicroBatch
from bench.model.encoder import TextEncoder
from bench.model.filters import PromptFilter
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from tests.contract.examples import specs
from tests.small_pictures import SMALL_SAMPLER, SmallPictures


@pytest.fixture(scope="module")
def tiny_sampler() -> Sampler:
    """The contract holds at any size of picture."""
    return SMALL_SAMPLER


LittleMemory = Callable[[torch.nn.Module, int], AbstractContextManager[list[int]]]


class Recording(SmallPictures):
    """It counts what it is shown of each concept."""

    name: ClassVar[str] = "recording"
    _seen: list[tuple[str, int]] = PrivateAttr(default_factory=list)

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        self._seen.append((concept.text, len(images_B3HW)))
        return super().scores(images_B3HW, concept)

    @property
    def seen(self) -> int:
        return sum(images for _, images in self._seen)


class RefusesAll(PromptFilter):
    name: ClassVar[str] = "refuses_all"

    def refuses(self, model: TextEncoder, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(prompts), dtype=torch.bool)


class EncoderOnly(Attack):
    """Its gradients pass through the text encoder alone: it learns states that are longer."""

    name: ClassVar[str] = "encoder_only"
    access: ClassVar[Access] = Access.EMBEDDING
    gradients: ClassVar[bool] = True

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        model, ids_BL = target.model, target.model.tokenize([goal.prompt for goal in goals])
        embeds_BLE = model.embed(ids_BL).detach().requires_grad_()
        length = model.encode_ids(ids_BL, embeds_BLE).states_BLD.square().sum()
        (grad_BLE,) = torch.autograd.grad(length, embeds_BLE)
        ctx.spend(gradient_steps=1)
        with torch.no_grad():
            states_BLD = model.encode_ids(ids_BL, embeds_BLE + 1e-4 * grad_BLE).states_BLD
        return [
            Candidate(goal.id, goal.prompt, states_LD=states_LD)
            for goal, states_LD in zip(goals, states_BLD, strict=True)
        ]


each = pytest.mark.parametrize(
    "spec", [*specs("attack"), pytest.param(EncoderOnly(), id="encoder_only")]
)


@dataclass(frozen=True)
class Once:
    """One run of an attack on all goals, which several tests look at.

    Attributes:
        found: Its candidates.
        seen: Images that the surrogate was shown.
        rows: The most rows that the UNet was given at once.
        cost: What it spent.
        touched: What it drew from or changed that is not its own.
    """

    found: list[Candidate]
    seen: int
    rows: int
    cost: Meter
    touched: list[str]


@pytest.fixture(scope="module")
def once(
    base: TextToImage,
    goals: list[Goal],
    tiny_sampler: Sampler,
    fingerprint: Callable[[TextToImage], str],
    global_rng: Callable[[], Mapping[str, object]],
) -> Callable[[Attack], Once]:
    """Runs an attack on all goals, once per module."""
    done: dict[str, Once] = {}

    def run(spec: Attack) -> Once:
        key = spec.model_dump_json() + spec.name
        if key not in done:
            sizes, cost, judge = [0], Meter(), Recording()
            hook = base.backbone.unet.register_forward_pre_hook(
                lambda module, args: sizes.append(len(args[0]))
            )
            model = replace(base, micro=MicroBatch(64), meter=cost)

            def state() -> dict[str, object]:
                return {**global_rng(), "networks": fingerprint(model), "edit": model.digest}

            before = state()
            try:
                found = spec(Target(model, tiny_sampler, judge), goals, rng=Rng(("c",)))
            finally:
                hook.remove()
            touched = [name for name, value in state().items() if value != before[name]]
            done[key] = Once(found, judge.seen, max(sizes), cost, touched)
        return done[key]

    return run


Ran = Callable[[Attack], Once]


@pytest.fixture
def target(model: TextToImage, tiny_sampler: Sampler) -> Target:
    return Target(model=model, sampler=tiny_sampler, surrogate=Recording())


@pytest.fixture(scope="session")
def goals(concepts: Mapping[str, Concept]) -> list[Goal]:
    """Two goals of one concept, and one of another."""
    prompts = [("star", 0), ("star", 1), ("sketch", 0)]
    return [
        Goal(id=f"{name}-{k}", concept=concepts[name], prompt=concepts[name].prompts["name"][k])
        for name, k in prompts
    ]


COMPUTED = ("completion", "image_to_image", "latent_inversion")
"""Attacks whose latents come out of the networks, where rows round otherwise beside others; the rest bring noise."""


def rounding(spec: Attack) -> float:
    """How far apart the same finds may be."""
    return 1e-4 if spec.name in COMPUTED else 1e-6


def of(candidates: Sequence[Candidate], goal: Goal) -> list[Candidate]:
    return [c for c in candidates if c.goal == goal.id]


def assert_same(
    one: Sequence[Candidate], other: Sequence[Candidate], *, apart: float = 1e-6
) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a.goal, a.prompt, a.queries, a.variant) == (b.goal, b.prompt, b.queries, b.variant)
        assert a.start == b.start
        for x, y in ((a.states_LD, b.states_LD), (a.latents_Chw, b.latents_Chw)):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                torch.testing.assert_close(x, y, atol=apart, rtol=0)
        assert (a.weights is None) == (b.weights is None)
        for name, change in (a.weights or {}).items():
            assert b.weights is not None
            # Of the whole: Adam makes a rounding of a gradient near 0 as large as a step.
            assert (change - b.weights[name]).norm() <= apart + 0.05 * change.norm(), name
        assert (a.own_score is None) == (b.own_score is None)
        if a.own_score is not None and b.own_score is not None:
            assert a.own_score == pytest.approx(b.own_score, abs=1e-4)


def test_the_controls_are_registered() -> None:
    assert {"prompts", "random_tokens", "seed_search"} <= set(registry.names("attack"))


@each
def test_every_goal_gets_candidates_of_the_kind_its_access_allows(
    spec: Attack, model: TextToImage, goals: list[Goal], once: Ran, tiny_sampler: Sampler
) -> None:
    found = once(spec).found
    assert {c.goal for c in found} == {g.id for g in goals}
    for candidate in found:
        states, latents = candidate.states_LD, candidate.latents_Chw
        assert candidate.prompt
        assert spec.access == spec.holds
        if states is not None:
            assert states.shape == model.encode([""]).states_BLD[0].shape
            assert torch.isfinite(states).all()
            assert not states.requires_grad
        if latents is not None:
            assert latents.shape == model.noise([0], tiny_sampler)[0].shape
            assert torch.isfinite(latents).all()
            assert not latents.requires_grad
        assert candidate.own_score is None or 0 <= candidate.own_score <= 1


@each
def test_a_goals_candidates_depend_on_nothing_but_the_goal(
    spec: Attack, target: Target, goals: list[Goal], once: Ran
) -> None:
    """Not on its neighbours, their order or the time: the same generator gives the same again."""
    together = once(spec).found
    backwards = spec(target, goals[::-1], rng=Rng(("c",)))
    for goal in goals:
        alone = spec(target, [goal], rng=Rng(("c",)))
        assert_same(of(together, goal), alone, apart=rounding(spec))
        assert_same(of(together, goal), of(backwards, goal), apart=rounding(spec))


@each
def test_memory_that_runs_out_halves_the_micro_batch_and_changes_no_result(
    spec: Attack, target: Target, goals: list[Goal], little_memory: LittleMemory, once: Ran
) -> None:
    roomy = once(spec)
    small = replace(target, model=replace(target.model, micro=MicroBatch(64)))
    with little_memory(small.model.backbone.unet, 2) as refused:  # one row, its two branches
        tight = spec(small, goals, rng=Rng(("c",)))
    # Images of the original model are made in other chunks too, and learned from: twice rounded.
    assert_same(roomy.found, tight, apart=1e-4)
    assert small.model.micro.halvings == len(refused)
    # One that never gives the UNet more rows, such as a search in the text encoder, was not tried.
    assert bool(refused) == (roomy.rows > 2)
    assert refused or not any(c.queries for c in tight)


@each
def test_what_it_calls_quick_is(spec: Attack, once: Ran) -> None:
    cost = once(spec).cost
    assert cost.images <= 32
    assert cost.gradient_steps <= 8


@each
def test_no_goals_give_no_candidates(spec: Attack, target: Target) -> None:
    assert spec(target, [], rng=Rng(("c",))) == []


@each
def test_it_leaves_the_model_and_the_global_rng_alone(
    spec: Attack, model: TextToImage, once: Ran
) -> None:
    assert not once(spec).touched
    assert not any(p.requires_grad for p in model.backbone.parameters.values())


@each
def test_its_queries_are_the_images_its_own_judge_saw(
    spec: Attack, goals: list[Goal], once: Ran
) -> None:
    ran = once(spec)
    queries = [max(c.queries for c in of(ran.found, goal)) for goal in goals]
    assert ran.seen == sum(queries)
    assert max(queries) <= spec.looks()
    if spec.control:  # it has the budget of an attack, and spends it
        assert queries == [spec.looks()] * len(goals)
    for candidate in ran.found:
        assert (candidate.own_score is None) == (candidate.queries == 0)


@each
def test_found_prompts_tokenise_to_themselves_and_fit(
    spec: Attack, model: TextToImage, once: Ran
) -> None:
    if spec.access > Access.PROMPT:
        pytest.skip("it does not search for prompts")
    backbone = model.backbone
    for candidate in once(spec).found:
        ids = backbone.tokenizer(candidate.prompt)["input_ids"]
        assert len(ids) <= backbone.length
        text = backbone.tokenizer.decode(ids, skip_special_tokens=True)
        assert backbone.tokenizer(text)["input_ids"] == ids


@each
def test_a_model_that_refuses_every_prompt_is_no_error(
    spec: Attack, model: TextToImage, goals: list[Goal], tiny_sampler: Sampler
) -> None:
    if spec.gradients:
        pytest.skip("it goes around the prompt filters")
    closed = Target(model.with_filters(RefusesAll()), tiny_sampler, Recording())
    found = spec(closed, goals[:2], rng=Rng(("c",)))
    assert {c.goal for c in found} == {g.id for g in goals[:2]}
    assert all(not c.own_score for c in found)


@each
def test_the_spec_comes_back_from_its_fields(spec: Attack) -> None:
    for mode in ("python", "json"):
        back = type(spec).model_validate(spec.model_dump(mode=mode))
        assert back == spec
        assert back.digest == spec.digest
