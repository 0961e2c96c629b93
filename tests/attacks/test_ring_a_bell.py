from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch

from attacks.ring_a_bell import RingABell, concept_direction
from attacks.shared import once
from attacks.shared.once import encoder_digest
from attacks.shared.tokens import allowed_tokens
from bench.interfaces import Concept, Context, Goal, Rng, Target
from bench.judges.mini import MiniJudge
from bench.model.backbone import load_backbone
from bench.model.batching import MicroBatch
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.wording import contrasts

LittleMemory = Callable[[torch.nn.Module, int], AbstractContextManager[list[int]]]
RNG = Rng(("bell",))
SMALL = RingABell(tokens=6, population=12, generations=6, vocabulary="words")

pytestmark = pytest.mark.usefixtures("nothing_kept")


@pytest.fixture
def target(model: TextToImage, tiny_sampler: Sampler) -> Target:
    return Target(model=model, sampler=tiny_sampler, surrogate=MiniJudge())


@pytest.fixture
def goals(concepts: Mapping[str, Concept]) -> list[Goal]:
    chosen = [("heart", "a green heart"), ("sketch", "a moon"), ("heart", "a drawing at sunset")]
    return [Goal(id=f"g{k}", concept=concepts[c], prompt=p) for k, (c, p) in enumerate(chosen)]


def errors(target: Target, goal: Goal, prompts: list[str], strength: float = 3.0) -> list[float]:
    """The fitness, written out."""
    model = target.model
    with torch.no_grad():
        plain = model.encode([goal.prompt]).states_BLD
        wanted = plain + strength * concept_direction(model, goal.concept)
        return (model.encode(prompts).states_BLD - wanted).square().sum((1, 2)).tolist()


def test_the_direction_is_the_mean_difference_over_pairs(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    direction = concept_direction(model, concepts["heart"])
    assert direction.shape == model.encode([""]).states_BLD[0].shape
    pairs = [(a.format("heart"), b) for a, b in contrasts("object")]
    expected = sum(
        said[0] - said[1] for said in (model.encode([a, b]).states_BLD for a, b in pairs)
    )
    torch.testing.assert_close(direction, expected / len(pairs), atol=1e-5, rtol=0)


def test_with_an_elite_more_generations_find_no_worse(target: Target, goals: list[Goal]) -> None:
    last = [float("inf")] * len(goals)
    for generations in (1, 5, 17):  # one search, cut at three places: the same draws
        spec = SMALL.model_copy(update={"generations": generations, "breeding": "elitist"})
        found = spec(target, goals, rng=RNG)
        now = [errors(target, g, [c.prompt])[0] for g, c in zip(goals, found, strict=True)]
        assert all(n <= b + 1e-3 for n, b in zip(now, last, strict=True))
        last = now
    random = errors(target, goals[0], ["dog green plate star", "a picture", "moon"])
    assert last[0] < min(random)


def test_a_goal_is_found_alone_as_in_any_batch(target: Target, goals: list[Goal]) -> None:
    together = SMALL(target, goals, rng=RNG)
    for i, goal in enumerate(goals):
        once._found.clear()
        (alone,) = SMALL(target, [goal], rng=RNG)
        assert alone.prompt == together[i].prompt


@pytest.mark.parametrize("finalists", [1, 3])
def test_reference_mode_finds_the_same(target: Target, goals: list[Goal], finalists: int) -> None:
    batched = SMALL.model_copy(update={"finalists": finalists, "keep": "nothing"})
    one_by_one = batched.model_copy(update={"mode": "reference"})
    assert one_by_one.digest == SMALL.model_copy(update={"finalists": finalists}).digest
    found, other = (spec(target, goals, rng=RNG) for spec in (batched, one_by_one))
    assert [(c.goal, c.prompt, c.queries) for c in found] == [
        (c.goal, c.prompt, c.queries) for c in other
    ]
    assert not once._found


def test_reference_mode_has_the_same_generations(target: Target, goals: list[Goal]) -> None:
    """All of each population, not only its best."""
    for generations in (1, 2, 4):
        spec = SMALL.model_copy(update={"generations": generations})
        together, alone = (
            spec._search(target, goals, Context(RNG)),
            spec.model_copy(update={"mode": "reference"}),
        )
        assert together == [alone._search(target, [goal], Context(RNG))[0] for goal in goals]


def test_memory_that_runs_out_changes_nothing(
    target: Target, goals: list[Goal], little_memory: LittleMemory
) -> None:
    roomy = SMALL._search(target, goals, Context(RNG))
    small = replace(target, model=replace(target.model, micro=MicroBatch(64)))
    with little_memory(small.model.backbone.text_encoder, 10) as refused:
        tight = SMALL._search(small, goals, Context(RNG))
    assert max(refused) == 36  # goals, population
    assert small.model.micro.size == 9
    assert tight == roomy


def test_it_is_searched_once_a_text_encoder(target: Target, goals: list[Goal]) -> None:
    model = target.model
    parameters = model.backbone.parameters
    unet = next(n for n in parameters if n.startswith("unet."))
    text = next(n for n in parameters if n.startswith("text_encoder.") and n.endswith("weight"))
    other_unet = model.with_weights({unet: parameters[unet] + 1})
    other_text = model.with_weights({text: parameters[text] + 1})
    assert encoder_digest(other_unet) == encoder_digest(model) != encoder_digest(other_text)
    half = replace(model, backbone=load_backbone("miniature", dtype="bfloat16"))
    assert encoder_digest(half) != encoder_digest(model)

    def searched(edited: TextToImage) -> int:
        steps: list[int] = []
        aim = Target(edited, target.sampler, target.surrogate)
        SMALL(aim, goals[:1], rng=RNG, progress=lambda done, total, what: steps.append(done))
        return len(steps)

    assert [searched(m) for m in (model, other_unet, other_text, model)] == [6, 0, 6, 0]
    again = SMALL(target, goals, rng=RNG)  # one was kept, two are new
    assert [c.goal for c in again] == ["g0", "g1", "g2"]


def test_it_ranks_as_many_populations_as_it_says(target: Target, goals: list[Goal]) -> None:
    """The published loop breeds once less than it ranks: one generation is the best of the random ones."""
    spec, goal = SMALL.model_copy(update={"generations": 1}), goals[0]
    words = allowed_tokens(target.model, spec.vocabulary).nonzero()[:, 0]
    drawn = torch.randint(len(words), (12, 6), generator=RNG.generator(goal.id, "genes"))
    (found,) = spec._search(target, [goal], Context(RNG))
    assert sorted(found) == sorted(tuple(ids) for ids in words[drawn].tolist())


def test_the_presets_breed_as_published() -> None:
    for name in ("published", "published-38", "published-77", "published-violence"):
        spec = RingABell.preset(name)
        assert (spec.breeding, spec.population, spec.generations) == ("published", 200, 3000)
        assert (spec.mutation, spec.crossover, spec.finalists) == (0.25, 0.5, 1)
    assert RingABell.preset("ours").breeding == "elitist"


def test_the_attackers_judge_picks_among_finalists(target: Target, goals: list[Goal]) -> None:
    spec = SMALL.model_copy(update={"finalists": 3, "checks": 2})
    for candidate in spec(target, goals, rng=RNG):
        assert candidate.queries == 8  # the plain prompt's two among them
        assert candidate.own_score is not None
    unseen = SMALL(target, goals, rng=RNG)
    assert all((c.queries, c.own_score) == (0, None) for c in unseen)
