from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from attacks.prompts import Prompts
from attacks.seed_search import SeedSearch
from attacks.shared.cascade import cascade
from attacks.standard import Standard
from bench.core.digest import digest_of
from bench.core.errors import UsageError
from bench.core.stages import Stage
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
from bench.judges.mini import MiniJudge
from bench.model.filters import ImageFilter
from bench.model.text_to_image import TextToImage
from tests.small_pictures import SMALL_SAMPLER

RNG = Rng(("ensemble",))
ATTACKS = Path(__file__).parents[2] / "attacks"
PINNED = {"v1": "525d77d2a0ff7a22", "mini-v1": "912cf96b5ee0aed5"}


class Constant(MiniJudge):
    """Says the same of every image, and counts what it is shown."""

    name: ClassVar[str] = "constant"
    says: float = 0.0

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        SHOWN.append(len(images_B3HW))
        return torch.full((len(images_B3HW), 1), self.says)


class Types(Attack):
    """Answers its goals with their own prompts, and remembers which it met."""

    name: ClassVar[str] = "types"
    access: ClassVar[Access] = Access.PROMPT

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        MET.append([goal.id for goal in goals])
        return [Candidate(goal.id, goal.prompt) for goal in goals]


class Starts(Attack):
    """Chooses the noise, and says how well it did on each goal."""

    name: ClassVar[str] = "starts"
    access: ClassVar[Access] = Access.LATENT
    own: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        MET.append([goal.id for goal in goals])
        noise = target.model.noise([ctx.seed(goal.id, "noise") for goal in goals], target.sampler)
        return [
            Candidate(g.id, g.prompt, latents_Chw=z, own_score=self.own.get(g.id, 0.1), queries=2)
            for g, z in zip(goals, noise, strict=True)
        ]


SHOWN: list[int] = []
MET: list[list[str]] = []
STAGES = (Starts(own={"first": 0.9}), Types(), Starts(own={"second": 0.5}), Starts())


class BlanksAll(ImageFilter):
    name: ClassVar[str] = "blanks_all"

    def blanks(self, images_B3HW: Tensor) -> Tensor:
        return torch.ones(len(images_B3HW), dtype=torch.bool)


@pytest.fixture
def goals(concepts: Mapping[str, Concept]) -> list[Goal]:
    MET.clear()
    SHOWN.clear()
    return [Goal(name, concepts["heart"], "a blue square") for name in ("first", "second", "never")]


@pytest.fixture
def target(model: TextToImage) -> Target:
    return Target(model, SMALL_SAMPLER, Constant())


def test_exactly_the_goals_that_were_broken_leave(target: Target, goals: list[Goal]) -> None:
    found = cascade(STAGES, target, goals, Context(RNG), images=2)
    assert MET == [
        ["first", "second", "never"],
        ["second", "never"],
        ["second", "never"],
        ["never"],
    ]
    told = [(c.goal, c.variant.split(":")[0], c.own_score) for c in found]
    assert told == [
        ("first", "1", 0.9), ("second", "1", 0.1), ("never", "1", 0.1),
        ("second", "2", 0.0), ("never", "2", 0.0),
        ("second", "3", 0.5), ("never", "3", 0.1),
        ("never", "4", 0.1),
    ]  # fmt: skip


def test_a_text_is_decided_by_fresh_images_of_it(target: Target, goals: list[Goal]) -> None:
    sees = replace(target, surrogate=Constant(says=0.6))
    found = cascade([Types(), Types()], sees, goals, Context(RNG), images=2)
    assert MET == [["first", "second", "never"]]
    assert [c.own_score for c in found] == pytest.approx([0.6] * 3)
    assert sum(SHOWN) == 6


def test_every_image_is_counted_once_and_adds_up(target: Target, goals: list[Goal]) -> None:
    found = cascade(STAGES, target, goals, Context(RNG), images=3)
    queries = {goal.id: [c.queries for c in found if c.goal == goal.id] for goal in goals}
    # Starts says that it saw two, which are not sampled again; three fresh ones of a text.
    assert queries == {"first": [2], "second": [2, 5, 7], "never": [2, 5, 7, 9]}
    assert sum(SHOWN) == 2 * 3


def test_a_find_says_which_stage_it_is_from(target: Target, goals: list[Goal]) -> None:
    found = cascade(STAGES[:2], target, goals[2:], Context(RNG), images=1)
    assert [Stage.read(c.variant) for c in found] == [
        Stage(1, "starts", "latent"), Stage(2, "types", "prompt"),
    ]  # fmt: skip
    assert Stage.read("name") is None


def test_blanked_images_break_nothing_and_all_stages_are_met(
    target: Target, goals: list[Goal]
) -> None:
    there = replace(target, model=target.model.with_filters(BlanksAll()))
    sees = replace(there, surrogate=Constant(says=0.9))
    found = cascade([Types(), Types()], sees, goals, Context(RNG), images=2)
    assert [len(met) for met in MET] == [3, 3]
    assert {c.own_score for c in found} == {0.0}


def test_each_stage_draws_from_streams_of_its_own(target: Target, goals: list[Goal]) -> None:
    found = cascade(STAGES, target, goals[2:], Context(RNG), images=1)
    noises = [c.latents_Chw for c in found if c.latents_Chw is not None]
    assert len({float(noise.sum()) for noise in noises}) == 3
    again = cascade(STAGES, target, goals, Context(RNG), images=1)
    mine = [c.latents_Chw for c in again if c.goal == "never" and c.latents_Chw is not None]
    assert all(torch.equal(one, other) for one, other in zip(mine, noises, strict=True))


@pytest.mark.parametrize(
    "given", [{"steps": 9}, {"images": 2}, {"stages": []}, {"prompt_sets": ("synonyms",)}]
)
def test_a_constant_of_ones_own_is_refused_with_the_reason(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"no constants to set, got {next(iter(given))}"):
        Standard.model_validate({"version": "v1", **given})


def test_a_suite_that_sets_one_gets_the_reason_in_one_line() -> None:
    with pytest.raises(UsageError, match="the same for everybody") as error:
        registry.build("attack", {"standard": {"preset": "mini-v1", "tries": 3}})
    assert "\n" not in str(error.value)
    assert registry.build("attack", {"standard": {"preset": "mini-v1", "goals": 3}}).label


@pytest.mark.parametrize("version", sorted(PINNED))
def test_a_version_is_what_it_was(version: str) -> None:
    """Whoever changes a stage, or the algorithm of one, gives the ensemble another version."""
    attack = Standard.preset(version)
    stages = [stage.identity() for stage in attack.stages]
    assert digest_of([stages, attack.images])[:16] == PINNED[version]
    assert attack.identity()["stages"] == stages


@pytest.mark.parametrize("version", sorted(PINNED))
def test_it_holds_what_its_stages_hold_and_the_cheapest_come_first(version: str) -> None:
    attack = Standard.preset(version)
    assert max(stage.holds for stage in attack.stages) == attack.holds == Access.LATENT
    assert attack.gradients
    assert len({stage.name for stage in attack.stages}) == len(attack.stages)
    searched = [stage.looks() for stage in attack.stages if not stage.gradients]
    assert searched == sorted(searched)
    gradients = [stage.gradients for stage in attack.stages]
    assert gradients == sorted(gradients), "what takes gradients comes last"
    assert attack.looks() > sum(searched)


def test_nothing_of_a_judge_of_record_is_reachable() -> None:
    """An attack is handed a target, whose one judge is the surrogate; and none gets a judge by itself."""
    judges = [field.name for field in fields(Target) if "Judge" in str(field.type)]
    assert judges == ["surrogate"]
    for path in ATTACKS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            told = [getattr(node, "module", None) or "", *names]
            assert not any(name.startswith(("bench.judges", "bench.run")) for name in told), path


def test_a_find_that_fixes_its_noise_is_one_image() -> None:
    assert (Prompts().images_per_find(5), SeedSearch().images_per_find(5)) == (5, 1)
    assert Standard().images_per_find(5) == 5, "not every find of it does"
