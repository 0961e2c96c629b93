from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import ClassVar

import pytest
import torch
from pydantic import PrivateAttr, ValidationError
from torch import Tensor

from attacks.prompts import Prompts
from attacks.random_tokens import RandomTokens
from attacks.seed_search import SeedSearch
from attacks.shared.search import score_images
from bench.interfaces import Attack, Candidate, Concept, Goal, Rng, Target
from bench.judges.mini import MiniJudge
from bench.model.filters import ImageFilter
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage

RNG = Rng(("controls",))
TRIES = 4
SEARCHES = [RandomTokens(tries=TRIES), SeedSearch(tries=TRIES)]
each_search = pytest.mark.parametrize("attack", SEARCHES, ids=lambda attack: attack.name)


class Recording(MiniJudge):
    """The miniature's judge; it keeps what it was shown and what it said."""

    name: ClassVar[str] = "recording"
    _images: list[Tensor] = PrivateAttr(default_factory=list)
    _scores: list[Tensor] = PrivateAttr(default_factory=list)

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        scores = super().scores(images_B3HW, concept)
        self._images.append(images_B3HW.clone())
        self._scores.append(scores.amax(1))
        return scores

    def seen(self) -> tuple[Tensor, Tensor]:
        """Images and scores of the two goals: [2, tries, ...]."""
        images, scores = torch.cat(self._images), torch.cat(self._scores)
        return images.unflatten(0, (2, -1)), scores.unflatten(0, (2, -1))


class BlanksBright(ImageFilter):
    name: ClassVar[str] = "blanks_bright"
    limit: float

    def blanks(self, images_B3HW: Tensor) -> Tensor:
        return images_B3HW.mean((1, 2, 3)) > self.limit


@pytest.fixture
def judge() -> Recording:
    return Recording()


@pytest.fixture
def target(model: TextToImage, tiny_sampler: Sampler, judge: Recording) -> Target:
    return Target(model=model, sampler=tiny_sampler, surrogate=judge)


@pytest.fixture
def goals(concepts: Mapping[str, Concept]) -> list[Goal]:
    star = concepts["star"]
    return [Goal(id=f"g{k}", concept=star, prompt=star.prompts["name"][k]) for k in range(2)]


def resampled(target: Target, candidate: Candidate, seed: int) -> Tensor:
    latents = candidate.latents_Chw
    return target.model.sample(
        [candidate.prompt],
        [seed],
        target.sampler,
        latents_BChw=None if latents is None else latents[None],
    ).images_B3HW[0]


@each_search
def test_the_best_of_all_tries_is_picked(
    attack: Attack, target: Target, judge: Recording, goals: list[Goal]
) -> None:
    found = attack(target, goals, rng=RNG)
    assert [c.goal for c in found] == ["g0", "g1"]
    images, scores = judge.seen()
    assert scores.shape == (2, TRIES)
    for candidate, tried, shown in zip(found, scores, images, strict=True):
        best = int(tried.argmax())
        assert candidate.own_score == pytest.approx(float(tried[best]))
        assert candidate.queries == TRIES
        again = resampled(target, candidate, RNG.seed(candidate.goal, best, "search"))
        torch.testing.assert_close(again, shown[best], atol=1e-4, rtol=0)


def test_the_latents_alone_make_the_image_that_was_found(
    target: Target, judge: Recording, goals: list[Goal]
) -> None:
    found = SeedSearch(tries=TRIES)(target, goals, rng=RNG)
    images, scores = judge.seen()
    for candidate, tried, shown in zip(found, scores, images, strict=True):
        for seed in (0, 1):  # held-out seeds play no part
            again = resampled(target, candidate, seed)
            torch.testing.assert_close(again, shown[int(tried.argmax())], atol=1e-4, rtol=0)
            score = float(judge.scores(again[None], goals[0].concept).amax())
            assert score == pytest.approx(candidate.own_score, abs=1e-3)


@each_search
def test_all_tries_differ(
    attack: Attack, target: Target, judge: Recording, goals: list[Goal]
) -> None:
    attack(target, goals, rng=RNG)
    images, _ = judge.seen()
    assert len(images.flatten(0, 1).flatten(1).unique(dim=0)) == 2 * TRIES


@each_search
def test_more_tries_find_no_worse(attack: Attack, target: Target, goals: list[Goal]) -> None:
    few = attack.model_copy(update={"tries": 1})(target, goals, rng=RNG)
    many = attack(target, goals, rng=RNG)
    for one, other in zip(few, many, strict=True):
        assert (one.own_score or 0) <= (other.own_score or 0) + 1e-4


@each_search
def test_another_rng_searches_elsewhere(
    attack: Attack, target: Target, judge: Recording, goals: list[Goal]
) -> None:
    attack(target, goals[:1], rng=RNG)
    attack(target, goals[:1], rng=Rng(("other",)))
    images, _ = judge.seen()
    assert (images[0] - images[1]).abs().amax((1, 2, 3)).min() > 0.01


@each_search
def test_a_blanked_image_is_not_shown_and_not_picked(
    attack: Attack, model: TextToImage, tiny_sampler: Sampler, goals: list[Goal]
) -> None:
    open_judge, closed_judge = Recording(), Recording()
    attack(Target(model, tiny_sampler, open_judge), goals, rng=RNG)
    images, scores = open_judge.seen()
    bright = images.mean((2, 3, 4))
    limit = float(bright[0].sort().values[1:3].mean())  # blanks two of the first goal
    filtered = model.with_filters(BlanksBright(limit=limit))
    found = attack(Target(filtered, tiny_sampler, closed_judge), goals, rng=RNG)
    left = torch.where(bright <= limit, scores, -1.0)
    assert sum(len(s) for s in closed_judge._scores) == int((bright <= limit).sum())
    for candidate, row in zip(found, left, strict=True):
        assert candidate.own_score == pytest.approx(max(0.0, float(row.max())), abs=1e-3)
        assert candidate.queries == TRIES


def test_scores_are_those_of_each_images_own_concept(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    images = torch.rand(4, 3, 64, 64, generator=RNG.generator("images"))
    goals = [
        Goal(id=str(k), concept=concepts[name], prompt="")
        for k, name in enumerate(["star", "fish", "star", "sketch"])
    ]
    scores = score_images(target, goals, images, [True, True, True, False])
    for k, name in enumerate(["star", "fish", "star"]):
        expected = MiniJudge().scores(images[k : k + 1], concepts[name])[0, 0]
        assert float(scores[k]) == pytest.approx(float(expected), abs=1e-5)
    assert scores[3] == -1


class Broken(MiniJudge):
    """Cannot say what it sees in the second image."""

    name: ClassVar[str] = "broken"

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        scores = super().scores(images_B3HW, concept)
        return scores.index_fill(0, torch.tensor([1]), self._said)

    _said: float = PrivateAttr(default=float("nan"))


@pytest.mark.parametrize("said", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_never_wins_a_search(
    model: TextToImage, tiny_sampler: Sampler, goals: list[Goal], said: float
) -> None:
    judge = Broken()
    judge._said = said
    target = Target(model=model, sampler=tiny_sampler, surrogate=judge)
    images = torch.rand(3, 3, 64, 64, generator=RNG.generator("images"))
    scores = score_images(target, [goals[0]] * 3, images, [True] * 3)
    assert scores[1] == -1
    assert int(scores.argmax()) != 1
    assert (scores[[0, 2]] >= 0).all()


@pytest.mark.parametrize("tokens", [1, 3])
def test_random_tokens_stand_before_the_prompt(
    target: Target, goals: list[Goal], tokens: int
) -> None:
    backbone = target.model.backbone
    found = RandomTokens(tokens=tokens, tries=1)(target, goals, rng=RNG)
    for candidate, goal in zip(found, goals, strict=True):
        prefix = candidate.prompt.removesuffix(f" {goal.prompt}")
        assert prefix != candidate.prompt
        assert len(prefix.split()) == tokens
        start, *ids, end = backbone.tokenizer(candidate.prompt)["input_ids"]
        assert ids[tokens:] == backbone.tokenizer(goal.prompt)["input_ids"][1:-1]
        assert (start, end) == (backbone.tokenizer.bos_token_id, backbone.tokenizer.eos_token_id)
    assert found[0].prompt.split()[:tokens] != found[1].prompt.split()[:tokens]


def test_plain_prompts_are_tried_as_they_are(
    target: Target, judge: Recording, goals: list[Goal]
) -> None:
    found = Prompts()(target, goals, rng=RNG)
    wanted = [Candidate(goal=g.id, prompt=g.prompt, variant="name") for g in goals]
    assert [asdict(c) for c in found] == [asdict(c) for c in wanted]
    assert not judge._images


@pytest.mark.parametrize("cls", [RandomTokens, SeedSearch])
def test_no_tries_are_refused(cls: type[RandomTokens] | type[SeedSearch]) -> None:
    with pytest.raises(ValidationError):
        cls(tries=0)
    assert cls.control
