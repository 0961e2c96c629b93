from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar, cast

import pytest
import torch
from pydantic import PrivateAttr
from torch import Tensor

from bench.interfaces import Access, Attack, Candidate, Concept, Goal, Rng, Target, registry
from bench.judges.mini import MiniJudge
from bench.model.batching import MicroBatch
from bench.model.encoder import TextEncoder
from bench.model.filters import PromptFilter
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage

# Fields of these names are made small, so that the contract is checked in seconds.
QUICK: dict[str, Any] = {
    "tries": 2, "steps": 2, "iterations": 2, "restarts": 1, "population": 2, "generations": 2,
    "images": 2, "draws": 1, "seeds": 1, "checks": 1, "finalists": 1,
}  # fmt: skip


LittleMemory = Callable[[torch.nn.Module, int], AbstractContextManager[list[int]]]


class Recording(MiniJudge):
    """The miniature's judge; it counts what it is shown of each concept."""

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


def specs() -> Iterator[Any]:
    for name in registry.names("attack"):
        cls = cast("type[Attack]", registry.get("attack", name))
        if cls.needs:
            continue  # only a user can build it: its own tests check the contract
        quick = {f: v for f, v in QUICK.items() if f in cls.model_fields}
        yield pytest.param(cls(**quick), id=name)
        for preset in cls.presets:
            yield pytest.param(cls.preset(preset, **quick), id=f"{name}[{preset}]")


each = pytest.mark.parametrize("spec", list(specs()))


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


def of(candidates: Sequence[Candidate], goal: Goal) -> list[Candidate]:
    return [c for c in candidates if c.goal == goal.id]


def assert_same(
    one: Sequence[Candidate], other: Sequence[Candidate], *, apart: float = 1e-6
) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a.goal, a.prompt, a.queries, a.variant) == (b.goal, b.prompt, b.queries, b.variant)
        for x, y in ((a.states_LD, b.states_LD), (a.latents_Chw, b.latents_Chw)):
            assert (x is None) == (y is None)
            if x is not None and y is not None:
                torch.testing.assert_close(x, y, atol=apart, rtol=0)
        assert (a.own_score is None) == (b.own_score is None)
        if a.own_score is not None and b.own_score is not None:
            assert a.own_score == pytest.approx(b.own_score, abs=1e-4)


def test_the_controls_are_registered() -> None:
    assert {"prompts", "random_tokens", "seed_search"} <= set(registry.names("attack"))


@each
def test_every_goal_gets_candidates_of_the_kind_its_access_allows(
    spec: Attack, target: Target, goals: list[Goal]
) -> None:
    found = spec(target, goals, rng=Rng(("c",)))
    assert {c.goal for c in found} == {g.id for g in goals}
    model = target.model
    for candidate in found:
        states, latents = candidate.states_LD, candidate.latents_Chw
        assert candidate.prompt
        assert states is None or spec.access >= Access.EMBEDDING
        assert latents is None or spec.access >= Access.LATENT
        if states is not None:
            assert states.shape == model.encode([""])[0].shape
            assert torch.isfinite(states).all()
            assert not states.requires_grad
        if latents is not None:
            assert latents.shape == model.latent_shape
            assert torch.isfinite(latents).all()
            assert not latents.requires_grad
        assert candidate.own_score is None or 0 <= candidate.own_score <= 1


@each
def test_a_goals_candidates_depend_on_nothing_but_the_goal(
    spec: Attack, target: Target, goals: list[Goal]
) -> None:
    together = spec(target, goals, rng=Rng(("c",)))
    backwards = spec(target, goals[::-1], rng=Rng(("c",)))
    for goal in goals:
        alone = spec(target, [goal], rng=Rng(("c",)))
        assert_same(of(together, goal), alone)
        assert_same(of(together, goal), of(backwards, goal))


@each
def test_memory_that_runs_out_halves_the_micro_batch_and_changes_no_result(
    spec: Attack, target: Target, goals: list[Goal], little_memory: LittleMemory
) -> None:
    roomy = spec(target, goals, rng=Rng(("c",)))
    small = replace(target, model=replace(target.model, micro=MicroBatch(64)))
    with little_memory(small.model.backbone.unet, 2) as refused:  # one row, its two branches
        tight = spec(small, goals, rng=Rng(("c",)))
    # Images of the original model are made in other chunks too, and learned from: twice rounded.
    assert_same(roomy, tight, apart=1e-4)
    assert small.model.micro.halvings == len(refused)
    assert refused or not (spec.gradients or any(c.queries for c in tight))


@each
def test_no_goals_give_no_candidates(spec: Attack, target: Target) -> None:
    assert spec(target, [], rng=Rng(("c",))) == []


@each
def test_it_is_deterministic_and_leaves_the_model_and_the_global_rng_alone(
    spec: Attack,
    target: Target,
    goals: list[Goal],
    fingerprint: Callable[[TextToImage], str],
    global_rng_untouched: None,
) -> None:
    before, digest = fingerprint(target.model), target.model.digest
    first = spec(target, goals[:2], rng=Rng(("c",)))
    assert_same(first, spec(target, goals[:2], rng=Rng(("c",))))
    assert fingerprint(target.model) == before
    assert target.model.digest == digest
    assert not any(p.requires_grad for p in target.model.backbone.parameters.values())


@each
def test_its_queries_are_the_images_its_own_judge_saw(
    spec: Attack, target: Target, goals: list[Goal]
) -> None:
    found = spec(target, goals, rng=Rng(("c",)))
    queries = [max(c.queries for c in of(found, goal)) for goal in goals]
    assert cast("Recording", target.surrogate).seen == sum(queries)
    if (tries := getattr(spec, "tries", None)) is not None:
        assert queries == [tries] * len(goals)
    for candidate in found:
        assert (candidate.own_score is None) == (candidate.queries == 0)


@each
def test_found_prompts_tokenise_to_themselves_and_fit(
    spec: Attack, target: Target, goals: list[Goal]
) -> None:
    if spec.access > Access.PROMPT:
        pytest.skip("it does not search for prompts")
    backbone = target.model.backbone
    for candidate in spec(target, goals, rng=Rng(("c",))):
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
