from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from attacks.mma import MMA, _Search
from attacks.shared import once
from attacks.shared.tokens import table
from bench.interfaces import Candidate, Concept, Context, Goal, Rng, Role, Target
from bench.model.text_to_image import TextToImage
from bench.toolkit.pooled import at_end, ends
from tests.small_pictures import SMALL_SAMPLER, SmallPictures

RNG = Rng(("mma",))
FEW = {"tokens": 6, "candidates": 16, "top": 32, "vocabulary": "words"}


def goals_of(concepts: Mapping[str, Concept]) -> list[Goal]:
    return [
        Goal(name, concepts[name], concepts[name].prompts["name"][0]) for name in ("heart", "moon")
    ]


def found(model: TextToImage, concepts: Mapping[str, Concept], **fields: object) -> list[Candidate]:
    few = {**FEW, "steps": 12, "restarts": 2, "keep": "nothing"}
    attack = MMA.model_validate({**few, **fields})
    target = Target(model, SMALL_SAMPLER, SmallPictures())
    return attack(target, goals_of(concepts), rng=RNG)


def nearness(model: TextToImage, one: str, other: str) -> float:
    with torch.no_grad():
        a, b = at_end(model, model.tokenize([one, other])).double()
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_the_state_at_the_end_is_clips_pooled_state(model: TextToImage) -> None:
    ids = model.tokenize(["a heart", "", "a red star in the snow"])
    with torch.no_grad():
        pooled = model.backbone.text_encoder(ids).pooler_output
        torch.testing.assert_close(at_end(model, ids), pooled)
    assert ends(model, ids).tolist() == [3, 1, 1 + len(model.words.ids("a red star in the snow"))]


def test_the_search_comes_nearer_with_its_steps(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    for goal, few, many in zip(
        goals_of(concepts), found(model, concepts, steps=1), found(model, concepts, steps=24), strict=True
    ):  # fmt: skip
        assert nearness(model, many.prompt, goal.prompt) > nearness(model, few.prompt, goal.prompt)
        assert many.trace is not None
        assert many.trace.steps == many.trace.budget == 48


def test_steps_without_a_gradient_are_counted(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    (name,) = (n for n in model.base_values if n.endswith("final_layer_norm.weight"))
    deaf = model.with_weights({name: torch.zeros_like(model.parameter(name))})
    for candidate in found(deaf, concepts, steps=2, restarts=2):
        assert candidate.trace is not None
        assert (candidate.trace.zero, candidate.trace.bad) == (4, 0)


def test_no_token_of_the_concepts_name_is_used(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    for goal, candidate in zip(goals_of(concepts), found(model, concepts), strict=True):
        assert not set(model.words.ids(goal.concept.text)) & set(model.words.ids(candidate.prompt))


def test_the_nearest_of_the_restarts_is_taken(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    one, two = found(model, concepts, restarts=1), found(model, concepts, restarts=2)
    for goal, first, best in zip(goals_of(concepts), one, two, strict=True):
        # The first restart is the same search: a second can only come nearer.
        assert (
            nearness(model, best.prompt, goal.prompt)
            >= nearness(model, first.prompt, goal.prompt) - 1e-6
        )


def test_the_target_is_read_by_the_unedited_encoder(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    name = model.backbone.embeddings
    edited = model.with_weights({name: 1.5 * model.parameter(name)})
    goals = goals_of(concepts)
    search = _Search.of(MMA(**MMA.quick), edited, goals, Context(RNG))
    with torch.no_grad():
        wanted = at_end(model, model.tokenize([goal.prompt for goal in goals]))
    assert torch.equal(search.wanted_RD, wanted)
    assert torch.equal(search.table_VE, 1.5 * table(model))


@pytest.mark.parametrize("mode", ["batched", "reference"])
def test_one_goal_at_a_time_finds_the_same(
    model: TextToImage, concepts: Mapping[str, Concept], mode: str
) -> None:
    prompts = [c.prompt for c in found(model, concepts, mode=mode)]
    assert prompts == [c.prompt for c in found(model, concepts)]


def test_a_search_is_done_once_per_encoder(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    once._found.clear()
    unet = model.having(Role.OUTPUT)[0]
    other = model.with_weights({unet: 2 * model.parameter(unet)})
    first = found(model, concepts, keep="process")
    kept = found(other, concepts, keep="process")
    assert [a is b for a, b in zip(first, kept, strict=True)] == [True, True]
    assert len(once._found) == 2
    found(other, concepts, keep="process", steps=2)
    assert len(once._found) == 4
    once._found.clear()
