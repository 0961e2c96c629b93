"""The kinds of ``python -m tests.fuzz``: each makes a case from a number, and plays it.

A case is refused by a UsageError, or accepted. Anything else that it raises is a fault.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from attacks.prompts import Prompts
from bench.config.suite import Suite, SuiteFile, Utility, load_suite, read_concepts
from bench.core.errors import UsageError, from_pydantic
from bench.core.shipped import model_folder
from bench.core.spec import Spec
from bench.interfaces import Concept, Rng, registry
from bench.model.pipeline.inspect import BaseFiles, inspect_base
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.run.plan import make_plan
from methods.checkpoint import Checkpoint
from tests.fuzz import bases, checkpoints, concepts, prompts
from tests.fuzz.fields import Numeric, numbers, placed, specs
from tests.fuzz.suites import mutated_suite

__all__ = ["KINDS", "Kind", "field_cases", "planned"]

_CONCEPTS: Final = (Concept(text="star"), Concept(text="fish"))
_PARTS: Final = {"method": "methods", "attack": "attacks", "judge": "judges", "metric": "metrics"}


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of input.

    Attributes:
        cases: How many a longer run plays by default.
        play: Makes the case of a number in an empty folder and plays it.
        warm: Loads what the cases share, before there are processes.
    """

    cases: int
    play: Callable[[int, Path], None]
    warm: Callable[[], object]


def planned(suite: Suite) -> None:
    """Plans a suite as the command line does; no network is loaded."""
    files = _inspected(suite.base, suite.revision)
    made = make_plan(suite, files.digest, folder=files.folder)
    made.check_base(files.folder)


def _inspected(base: str, revision: str | None) -> BaseFiles:
    return _miniature() if base == "miniature" else inspect_base(base, commit=revision)


@cache
def _miniature() -> BaseFiles:
    return inspect_base("miniature")


@cache
def _model() -> TextToImage:
    from bench.model.backbone import load_inspected

    return TextToImage(load_inspected(_miniature()))


def _suite(seed: int, folder: Path) -> None:
    path = folder / "suite.yaml"
    path.write_bytes(mutated_suite(random.Random(seed)))
    planned(load_suite(path))


def _prompts(seed: int, folder: Path) -> None:
    attack = Prompts(file=str(prompts.write_mutated(random.Random(seed), folder)))
    pinned = attack.pinned()
    pinned.check(_CONCEPTS)
    assert all(len(line) < 600 for line in pinned.remarks(_CONCEPTS))
    goals = [goal for concept in _CONCEPTS for goal in pinned.own_goals(concept) or ()]
    assert goals
    assert all(goal.prompt.strip() == goal.prompt != "" for goal in goals)


def _concepts(seed: int, folder: Path) -> None:
    read = read_concepts(concepts.write_mutated(random.Random(seed), folder))
    assert all(len(concept.digest) == 64 for concept in read.values())


def _checkpoint(seed: int, folder: Path) -> None:
    draw = random.Random(seed)
    path = checkpoints.mutated(draw, folder / "edited")
    values = draw.choice(("absolute",) * 5 + ("difference",))
    fields = {"path": str(path), "names": "some", "values": values}
    spec = registry.build("method", {"checkpoint": fields})
    assert isinstance(spec, Checkpoint)
    spec.check_base(model_folder())
    spec.remarks(model_folder())
    try:
        spec(_model(), [_CONCEPTS[0]], rng=Rng(("fuzz",)))
    except UsageError as error:  # a refusal would count as one of the plan
        raise AssertionError(f"the plan took it, and the run refuses it: {error}") from error


def _base(seed: int, folder: Path) -> None:
    base = bases.linked_base(folder / "base")
    next(bases.cases(random.Random(seed))).write(base)
    if (refused := bases.outcome(base)) is not None:
        raise UsageError(refused)


@cache
def field_cases() -> list[tuple[type[BaseModel], Numeric, float, bool]]:
    """Every number of every spec, each of its extremes and what lies beyond, and whether it is allowed."""
    found: list[tuple[type[BaseModel], Numeric, float, bool]] = []
    for cls in (c for c in specs() if not inspect.isabstract(c)):
        for one in numbers(cls):
            found += [(cls, one, value, True) for value in one.extremes()]
            found += [(cls, one, value, False) for value in one.outside()]
    return found


def _field(seed: int, folder: Path) -> None:
    cls, one, value, allowed = field_cases()[seed]
    there = placed(one, value)
    if allowed and one.place.endswith("]") and not one.place.endswith("[]"):
        there = [0.0, 1.0]  # a span rises
    try:
        cls.model_validate({one.field: there})
    except ValidationError as error:
        raise from_pydantic(error, cls) from error
    assert allowed, f"{cls.__name__}.{one.place} = {value} is beyond its bounds, and accepted"
    if (changed := _with_field(cls, one.field, there)) is not None:
        planned(changed)


def _with_field(cls: type[BaseModel], field: str, value: Any) -> Suite | None:
    """A suite that holds the value; ``None``: suites have no place for such a spec."""
    suite = load_suite("mini-quick")
    if cls is SuiteFile:
        return suite.with_(**{field: value})
    if cls is Utility:
        return suite.with_(utility={field: value})
    if cls is Sampler:
        return suite.with_(sampler={**suite.file.sampler, field: value})
    key = _PARTS.get(getattr(cls, "kind", ""))
    if key is None or not issubclass(cls, Spec) or not cls.name:
        return None
    kept = [e for e in getattr(suite.file, key) if e != cls.name]
    return suite.with_(**{key: [*kept, {cls.name: {field: value}}]})


def _settled() -> None:
    """Loads what every case needs, once."""
    registry.load()
    planned(load_suite("mini-quick"))


KINDS: Final[dict[str, Kind]] = {
    "suites": Kind(10_000, _suite, _settled),
    "prompts": Kind(5_000, _prompts, _settled),
    "checkpoints": Kind(3_000, _checkpoint, _model),
    "concepts": Kind(2_000, _concepts, _settled),
    "bases": Kind(1_000, _base, _model),
    "fields": Kind(0, _field, _settled),
}
