"""The doors of methods and attacks: what goes in, what comes out, and what it cost."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import PrivateAttr

import attacks
import bench
import methods
import tvc
from bench import api
from bench.core.errors import UsageError
from bench.core.meter import Meter
from bench.interfaces import (
    Access,
    Attack,
    Candidate,
    Concept,
    Context,
    Erasure,
    Goal,
    Rng,
    Slot,
    Target,
    Trace,
)
from bench.interfaces.answers import check_answers
from bench.interfaces.minors import NoMinors
from bench.judges.mini import MiniJudge
from bench.model.filters import Filter
from bench.model.guidance import NegativePrompt
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from methods.negative_prompt import NegativePromptErasure
from methods.uce import UCE

RNG = Rng(("doors",))
STAR = Concept(text="star", prompts={"name": ("a red star",)})
BIAS, WEIGHT = "unet.conv_out.bias", "unet.conv_out.weight"

Edit = Callable[[TextToImage, Context], TextToImage]


@dataclass
class Told:
    concepts: Sequence[Concept] = ()
    folders: tuple[Path | None, ...] = ()
    target: Target | None = None
    goals: Sequence[Goal] = ()


class Mine(Erasure):
    """Somebody's method: it does whatever a test says, and declares one parameter."""

    name: ClassVar[str] = "mine"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    _told: Told = PrivateAttr(default_factory=Told)
    _edit: Edit = PrivateAttr()

    def parameters(self, model: TextToImage) -> list[str]:
        return [BIAS]

    def check_base(self, folder: Path | None) -> None:
        self._told.folders += (folder,)
        if folder is None:
            raise UsageError("mine: expected a base with a folder, got none; load it from one")

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        self._told.concepts = concepts
        return self._edit(model, ctx)


def mine(edit: Edit) -> Mine:
    method = Mine()
    method._edit = edit
    return method


# -- methods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("concept", ["", " ", [], [""]])
def test_nothing_to_erase_is_refused(model: TextToImage, concept: Any) -> None:
    with pytest.raises(UsageError, match="expected"):
        api.erase(model, concept, "uce")


def test_a_concept_without_a_name_is_refused_however_it_was_made(model: TextToImage) -> None:
    unnamed = STAR.model_copy(update={"text": ""})
    with pytest.raises(UsageError, match="mine: expected concepts with a name, got 1 without"):
        mine(lambda model, ctx: model)(model, [STAR, unnamed], rng=RNG)


def test_a_method_is_told_no_prompts_and_the_base_is_asked_first(model: TextToImage) -> None:
    method = mine(lambda model, ctx: model)
    method(model, [STAR], rng=RNG)
    assert [(c.text, c.prompts) for c in method._told.concepts] == [("star", {})]
    assert method._told.folders == (model.backbone.folder,)
    method._told.concepts = ()
    other = replace(model, backbone=replace(model.backbone, folder=None))
    with pytest.raises(UsageError, match="expected a base with a folder"):
        method(other, [STAR], rng=RNG)
    assert method._told.concepts == ()


def bias(model: TextToImage, by: float = 1.0) -> TextToImage:
    return model.with_weights({BIAS: model.parameter(BIAS) + by})


UNDECLARED: dict[str, tuple[Edit, str]] = {
    "slot": (
        lambda model, ctx: bias(model).with_guidance(NegativePrompt(text="x", weight=1.0)),
        r"declares slots \['weights'\] but filled \['guidance', 'weights'\]",
    ),
    "filter": (lambda model, ctx: model.with_filters(NoMinors()), r"filled \['filters'\]"),
    "parameter": (
        lambda model, ctx: model.with_weights({WEIGHT: model.parameter(WEIGHT) * 2}),
        rf"parameters it does not declare: \['{WEIGHT}'\]",
    ),
    "not finite": (
        lambda model, ctx: replace(model, weights={BIAS: model.parameter(BIAS) / 0}),
        f"{BIAS}: the edited values are not finite",
    ),
    "networks": (
        lambda model, ctx: replace(model, backbone=replace(model.backbone)),
        "returned a model with other networks",
    ),
}


@pytest.mark.parametrize("case", UNDECLARED)
def test_what_a_method_does_not_declare_is_refused(model: TextToImage, case: str) -> None:
    edit, message = UNDECLARED[case]
    with pytest.raises(ValueError, match=message):
        mine(edit)(model, [STAR], rng=RNG)
    with pytest.raises(ValueError, match=message):
        api.erase(model, STAR, mine(edit))


def test_what_an_earlier_edit_filled_is_not_the_methods_doing(model: TextToImage) -> None:
    first = UCE()(NegativePromptErasure()(model, [STAR], rng=RNG), [STAR], rng=RNG)
    both = mine(lambda model, ctx: bias(model))(first, [STAR], rng=RNG)
    assert both.slots == {"weights", "guidance"}
    with pytest.raises(ValueError, match="parameters it does not declare"):
        mine(lambda model, ctx: bias(replace(model, weights={})))(first, [STAR], rng=RNG)


def test_a_door_is_not_replaced() -> None:
    for base, author in ((Erasure, "erase"), (Attack, "run")):
        with pytest.raises(TypeError, match=f"door of {base.__name__}, got one; write {author}"):
            type("Rude", (base,), {"__call__": lambda self: None})


# -- what it cost --------------------------------------------------------------------------------


def test_what_is_spent_is_counted_by_the_meter_of_the_model(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    def inner(model: TextToImage, ctx: Context) -> TextToImage:
        ctx.note(second="b")
        ctx.child("below").spend(images=2)
        return bias(model)

    def outer(model: TextToImage, ctx: Context) -> TextToImage:
        ctx.note(first=1)
        ctx.spend(gradient_steps=3)
        edited = mine(inner)(model, [STAR], rng=ctx.rng)
        edited.sample(["a star"], [0], tiny_sampler)
        return edited

    cost, other, before = Meter(), Meter(), model.meter.images
    edited = mine(outer)(model.with_meter(cost), [STAR], rng=RNG)
    assert cost == Meter(images=3, gradient_steps=3, notes={"first": 1, "second": "b"})
    edited.with_meter(other).sample(["a star"], [0], tiny_sampler)
    assert (cost.images, other.images, model.meter.images) == (3, 1, before)


def test_an_attack_is_counted_likewise(target: Target, goal: Goal) -> None:
    def run(target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        target.model.sample(["a star"], [0], target.sampler)
        ctx.spend(gradient_steps=1)
        return [Candidate(g.id, "a star") for g in goals]

    cost = Meter()
    attack(run)(replace(target, model=target.model.with_meter(cost)), [goal], rng=RNG)
    assert (cost.images, cost.gradient_steps) == (1, 1)


# -- attacks -------------------------------------------------------------------------------------

Run = Callable[[Target, Sequence[Goal], Context], list[Candidate]]


class Tries(Attack):
    """Somebody's attack: it does whatever a test says."""

    name: ClassVar[str] = "tries"
    _holds: Access = PrivateAttr(default=Access.PROMPT)
    _run: Run = PrivateAttr()

    @property
    def holds(self) -> Access:
        return self._holds

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        return self._run(target, goals, ctx)


def attack(run: Run, holds: Access = Access.PROMPT) -> Tries:
    made = Tries()
    made._run, made._holds = run, holds
    return made


def answers(*found: Candidate, holds: Access = Access.PROMPT) -> Tries:
    return attack(lambda target, goals, ctx: list(found), holds)


@pytest.fixture
def target(model: TextToImage, tiny_sampler: Sampler) -> Target:
    return Target(model=model, sampler=tiny_sampler, surrogate=MiniJudge())


@pytest.fixture
def goal() -> Goal:
    return Goal(id="name-000", concept=Concept(text="star"), prompt="a star")


def test_every_goal_is_answered_and_no_other(target: Target, goal: Goal) -> None:
    mine, other = Candidate("name-000", "a star"), Candidate("name-007", "a star")
    assert answers(mine, mine)(target, [goal], rng=RNG) == [mine, mine]
    with pytest.raises(ValueError, match="tries returned no candidate for 1 of 1 goals, such as"):
        answers()(target, [goal], rng=RNG)
    with pytest.raises(ValueError, match="for 1 goals that it was not given, such as 'name-007'"):
        answers(mine, other)(target, [goal], rng=RNG)


def test_the_model_that_an_attack_is_handed_is_guarded(target: Target, goal: Goal) -> None:
    seen: list[tuple[Filter, ...]] = []

    def run(target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        seen.append(target.model.filters)
        return [Candidate(g.id, g.prompt) for g in goals]

    attack(run)(target, [goal], rng=RNG)
    assert [type(rule) for (rule,) in seen] == [NoMinors]


CARRIED: dict[str, Access] = {
    "states_LD": Access.EMBEDDING, "latents_Chw": Access.LATENT, "start": Access.LATENT,
    "weights": Access.WEIGHTS,
}  # fmt: skip


@pytest.mark.parametrize("holds", list(Access), ids=lambda access: access.name)
@pytest.mark.parametrize("field", CARRIED)
def test_a_candidate_carries_no_more_than_the_attacker_holds(
    target: Target, goal: Goal, field: str, holds: Access
) -> None:
    value: Any = {BIAS: torch.zeros(4)} if field == "weights" else torch.zeros(2, 2)
    carried: dict[str, Any] = {field: value}
    if field == "start":
        carried = {"start": 1, "latents_Chw": value if holds >= Access.LATENT else None}
    found = replace(Candidate("name-000", "a star"), **carried)
    if holds >= CARRIED[field]:
        assert answers(found, holds=holds)(target, [goal], rng=RNG) == [found]
        return
    message = f"holds {holds.name} and returned {field} .* needs {CARRIED[field].name}"
    with pytest.raises(ValueError, match=message):
        answers(found, holds=holds)(target, [goal], rng=RNG)


@pytest.mark.parametrize("start", [-1, 2, 3])
def test_a_start_leaves_the_edited_model_a_step(target: Target, goal: Goal, start: int) -> None:
    assert target.sampler.steps == 2
    found = Candidate("name-000", "a star", latents_Chw=torch.zeros(4, 2, 2), start=start)
    message = (
        f"returned start {start} for goal 'name-000', expected 0 to 1: the sampler has 2 steps"
    )
    with pytest.raises(ValueError, match=message):
        answers(found, holds=Access.LATENT)(target, [goal], rng=RNG)


def test_a_start_has_latents(target: Target, goal: Goal) -> None:
    found = Candidate("name-000", "a star", start=1)
    with pytest.raises(ValueError, match="returned start 1 for goal 'name-000' and no latents_Chw"):
        answers(found, holds=Access.LATENT)(target, [goal], rng=RNG)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"unet.nothing": torch.zeros(1)}, "the model has no parameter 'unet.nothing'"),
        ({BIAS: torch.zeros(5)}, r"expected differences of shape \(4,\), got .* of \(5,\)"),
        ({BIAS: torch.zeros(4, dtype=torch.int32)}, r"got torch.int32 of \(4,\)"),
        ({BIAS: torch.full((4,), torch.nan)}, "expected finite differences"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    target: Target, goal: Goal, weights: dict[str, torch.Tensor], message: str
) -> None:
    found = Candidate("name-000", "a star", weights=weights)
    with pytest.raises(ValueError, match=message):
        answers(found, holds=Access.WEIGHTS)(target, [goal], rng=RNG)


def test_weights_are_bounded_and_a_shared_difference_counts_once(
    model: TextToImage, goal: Goal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.interfaces.answers.MOST_VALUES", 7)

    def check(*weights: dict[str, torch.Tensor]) -> None:
        found = [Candidate(goal.id, "a star", weights=one) for one in weights]
        check_answers(found, [goal], model, holds=Access.WEIGHTS, by="tries", steps=2)

    one, other = ({BIAS: torch.zeros(4)} for _ in range(2))
    check(one, one)
    with pytest.raises(ValueError, match=r"tries returned 8 numbers of weight .* at most 7 in all"):
        check(one, other)


# -- values --------------------------------------------------------------------------------------


def dataclasses_with_tensors() -> list[type]:
    found = []
    for package in (attacks, bench, methods, tvc):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__"):
                continue
            for cls in vars(importlib.import_module(info.name)).values():
                if isinstance(cls, type) and dataclasses.is_dataclass(cls):
                    types = [str(f.type) for f in dataclasses.fields(cls) if f.compare]
                    if any(re.search(r"\b(Tensor|NDArray|ndarray)\b", t) for t in types):
                        found.append(cls)
    return found


def test_values_that_hold_tensors_are_compared_as_objects() -> None:
    """A generated ``__eq__`` asks a tensor whether it is true, and a generated ``__hash__`` a mapping."""
    found = set(dataclasses_with_tensors())
    assert {Candidate, TextToImage} <= found
    wrong = {cls.__qualname__ for cls in found if "__eq__" in vars(cls)}
    assert not wrong, f"give these eq=False: {sorted(wrong)}"


@pytest.mark.parametrize(("steps", "bad"), [(5, 5), (5, 7), (5, 4), (0, 0)])
def test_a_search_without_any_finite_gradient_is_an_error(
    target: Target, goal: Goal, steps: int, bad: int
) -> None:
    """With some it is counted, for the flag; one that took no step, such as a goal that holds, is none."""
    found = Candidate("name-000", "a star", trace=Trace(steps=steps, budget=5, bad=bad))
    if bad < steps or not steps:
        assert answers(found)(target, [goal], rng=RNG) == [found]
        return
    with pytest.raises(FloatingPointError, match="tries: no gradient of 1 of 1 searches was fini"):
        answers(found)(target, [goal], rng=RNG)
