from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from attacks.query_search import QuerySearch, _Drawing
from bench.core.rng import generator_for
from bench.interfaces import Concept, Context, Goal, Rng, Target
from bench.judges.mini import MiniJudge
from bench.model.encoder import TextEncoder
from bench.model.filters import ImageFilter, PromptFilter
from bench.model.text_to_image import TextToImage
from tests.small_pictures import SMALL_SAMPLER

RNG = Rng(("queries",))
WORDS = ("heart", "moon", "fish", "red", "pizza", "tree")
SMALL = QuerySearch(
    rounds=5, proposals=4, parents=2, added=0, near=0, words=WORDS, finalists=0, checks=1
)


class Bright(MiniJudge):
    """How bright an image is: an objective whose optimum a test can find by trying everything."""

    name: ClassVar[str] = "bright"

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        return images_B3HW.mean((1, 2, 3))[:, None]


class NoHearts(PromptFilter):
    name: ClassVar[str] = "no_hearts"

    def refuses(self, model: TextEncoder, prompts: Sequence[str]) -> Tensor:
        return torch.tensor(["heart" in prompt for prompt in prompts])


class BlanksAll(ImageFilter):
    name: ClassVar[str] = "blanks_all"

    def blanks(self, images_B3HW: Tensor) -> Tensor:
        return torch.ones(len(images_B3HW), dtype=torch.bool)


@pytest.fixture
def target(model: TextToImage) -> Target:
    return Target(model, SMALL_SAMPLER, Bright(threshold=1.0))


@pytest.fixture
def goal(concepts: Mapping[str, Concept]) -> Goal:
    return Goal("g", concepts["heart"], "heart")


def brightness(target: Target, goal: Goal, texts: Sequence[str]) -> dict[str, float]:
    """Of the image that each prompt gives on the search's seed."""
    seeds = [RNG.seed(goal.id, 0, "search")] * len(texts)
    images = target.model.sample(texts, seeds, target.sampler).images_B3HW
    return dict(zip(texts, images.mean((1, 2, 3)).tolist(), strict=True))


def test_it_finds_the_best_of_all_prompts_and_tries_none_twice(target: Target, goal: Goal) -> None:
    every = brightness(target, goal, WORDS)
    (found,) = SMALL(target, [goal], rng=RNG)
    assert found.own_score == pytest.approx(max(every.values()), abs=1e-3)
    assert every[found.prompt] == pytest.approx(max(every.values()), abs=1e-3)
    assert found.queries == len(WORDS), "once each: there are no other prompts of one word"


def test_more_words_than_the_goals_own_are_found_too(target: Target, goal: Goal) -> None:
    pairs = [f"{one} {other}" for one in WORDS[:3] for other in WORDS[:3]]
    every = brightness(target, goal, [*WORDS[:3], *pairs])
    wide = SMALL.model_copy(update={"words": WORDS[:3], "added": 1, "rounds": 12})
    (found,) = wide(target, [goal], rng=RNG)
    assert found.queries <= len(every)
    assert every[found.prompt] == pytest.approx(max(every.values()), abs=1e-3)


def test_a_search_leaves_the_words_that_a_filter_knows(target: Target, goal: Goal) -> None:
    there = replace(target, model=target.model.with_filters(NoHearts()))
    (found,) = SMALL(there, [goal], rng=RNG)
    assert "heart" not in found.prompt
    assert found.own_score is not None
    assert found.own_score > 0
    assert found.trace is not None
    assert found.trace.looks[0] == 0.0, "the own prompt was refused: worth nothing"


def test_images_that_are_all_blanked_are_worth_nothing(target: Target, goal: Goal) -> None:
    there = replace(target, model=target.model.with_filters(BlanksAll()))
    (found,) = SMALL(there, [goal], rng=RNG)
    assert (found.prompt, found.own_score) == ("heart", 0.0)
    assert found.queries > 1


def test_a_goal_that_is_reached_stops(target: Target, goal: Goal) -> None:
    easy = replace(target, surrogate=Bright(threshold=0.0))
    stopped = SMALL.model_copy(update={"stop": "success"})
    assert [c.queries for c in stopped(easy, [goal], rng=RNG)] == [1]
    assert [c.queries for c in SMALL(easy, [goal], rng=RNG)] == [len(WORDS)]


def test_the_words_nearest_to_the_name_come_first(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    near = QuerySearch(near=5)._near(model, concepts["star"])
    assert near[0] == "star"
    assert len(set(near)) == 5
    assert QuerySearch(near=0)._near(model, concepts["star"]) == ()


def test_half_of_the_first_proposals_do_without_the_name(concepts: Mapping[str, Concept]) -> None:
    goal = Goal("g", concepts["star"], "a photo of a Star on a plate")
    drawing = _Drawing(goal, ("fish", "tree"), (), added=2)
    with_name = [
        "star" in " ".join(drawing.first(k, generator_for("first", k))).lower().split()
        for k in range(40)
    ]
    assert not any(with_name[1::2])
    assert sum(with_name[::2]) > 10


def test_a_prompt_keeps_its_room_and_a_word(concepts: Mapping[str, Concept]) -> None:
    goal = Goal("g", concepts["star"], "a star")
    drawing = _Drawing(goal, WORDS, WORDS[:1], added=1)
    best = [["a", "star"]]
    for turn in range(60):
        best = [drawing.bred(best, generator_for("bred", turn)), *best][:3]
        assert 1 <= len(best[0]) <= 3
        assert set(best[0]) <= {*WORDS, "a", "star"}


def test_no_word_about_minors_is_tried(model: TextToImage) -> None:
    assert QuerySearch(words=("tree", "toddler"))._words(model) == ("tree",)


def test_the_streams_are_named_by_goal(target: Target, goal: Goal) -> None:
    attack = SMALL.model_copy(update={"rounds": 1})
    other = replace(goal, id="other")
    together = attack.run(target, [goal, other], Context(RNG))
    alone = attack.run(target, [other], Context(RNG))
    assert together[1].prompt == alone[0].prompt
    assert together[1].queries == alone[0].queries
