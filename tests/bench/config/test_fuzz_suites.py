"""Whatever stands in a suite file, and whatever number a field allows: it is planned, or refused in one line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from bench.config.suite import Suite, SuiteFile, load_suite
from bench.core.errors import MOST_MESSAGE, UsageError
from bench.core.spec import Spec
from bench.run.plan import make_plan
from tests.fuzz.fields import Numeric, numbers, specs
from tests.fuzz.suites import mutated_suite

FUZZ = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PARTS = {"method": "methods", "attack": "attacks", "judge": "judges", "metric": "metrics"}


@FUZZ
@given(st.integers(0, 2**32))
@example(6772)  # a folder's name of more than 4,096 bytes
def test_a_mutated_suite_is_planned_or_refused_in_a_line(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "suite.yaml"
    path.write_bytes(mutated_suite(random.Random(seed)))
    try:
        make_plan(load_suite(path), "0" * 64, limit=1)
    except UsageError as error:
        assert str(error).isprintable()
        assert len(str(error)) <= MOST_MESSAGE


def test_the_same_generator_gives_the_same_file() -> None:
    files = [mutated_suite(random.Random(seed)) for seed in range(50)]
    assert files == [mutated_suite(random.Random(seed)) for seed in range(50)]
    assert len(set(files)) > 45


@pytest.mark.parametrize(
    "cls", [c for c in specs() if issubclass(c, Spec) and c.kind in PARTS and c.name],
    ids=lambda cls: cls.__name__,
)  # fmt: skip
def test_a_spec_at_its_extremes_is_planned(cls: type[BaseModel]) -> None:
    spec = cast("type[Spec]", cls)
    suite, key = load_suite("mini-quick"), PARTS[spec.kind]
    kept = {s.label: e for s, e in zip(_built(suite, key), getattr(suite.file, key), strict=True)}
    for one in numbers(cls):
        for value in _at_the_ends(one):
            try:
                label = spec(**{one.field: value}).label
            except ValueError:
                continue  # a span that does not rise
            kept.setdefault(label, {spec.name: {one.field: value}})
    fields: dict[str, Any] = {key: list(kept.values())}
    if spec.name == "clip_zero_shot":
        fields["surrogate"] = {"mini_judge": {"threshold": 0.4}}  # through another network
        fields["judges"] = [e for e in fields["judges"] if e != "mini_judge"]
    try:
        changed = suite.with_(**fields)
        assert make_plan(changed, "0" * 64, only=["star"], limit=1).cells
    except UsageError as error:  # what only a user can give, such as a checkpoint
        assert spec.needs or "cannot see 'star'" in str(error), str(error)


@pytest.mark.parametrize("key", ["goals", "seeds", "repeats", "seed", "keep_images"])
@pytest.mark.parametrize("end", [0, 1])
def test_a_suite_at_its_extremes_is_planned_or_refused_in_a_line(key: str, end: int) -> None:
    (one,) = (n for n in numbers(SuiteFile) if n.place == key)
    value = min(int(one.extremes()[end]), 2**63 - 1)
    try:
        assert make_plan(load_suite("mini-quick").with_(**{key: value}), "0" * 64, limit=1).cells
    except UsageError as error:
        assert "expected a suite of at most" in str(error)


def _built(suite: Suite, key: str) -> tuple[Spec, ...]:
    built: tuple[Spec, ...] = getattr(suite, key)
    return built


def _at_the_ends(one: Numeric) -> list[Any]:
    low, high = one.extremes()
    if one.place.endswith("[]"):
        return [[low], [high]]
    if one.place.endswith("]"):
        return [[0.0, 1.0]]
    return [low, high]
