"""Every number of every spec has finite bounds, and nothing beyond them, NaN or infinite gets in."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import BaseModel, Field, ValidationError

from bench.core.spec import Spec
from bench.interfaces import Concept
from bench.model.sampler import Sampler
from tests.fuzz.fields import Numeric, numbers, placed, specs

ALL = [(cls, one) for cls in specs() for one in numbers(cls)]
IDS = [f"{cls.__name__}.{one.place}" for cls, one in ALL]


class Open(Spec):
    """A new spec, as it looks before anybody has thought of its bounds."""

    name: ClassVar[str] = ""
    count: int = 1
    below: int = Field(1, ge=1)
    share: float | None = Field(None, ge=0, le=1)
    many: tuple[float, ...] = ()
    named: dict[str, tuple[int, float]] = Field(default_factory=dict)
    part: Sampler = Sampler()


def test_the_walk_finds_what_has_no_bounds() -> None:
    places = {one.place: one.bounded for one in numbers(Open)}
    assert {place for place, bounded in places.items() if not bounded} == {
        "count", "below", "many[]", "named{}[0]", "named{}[1]",
    }  # fmt: skip
    assert places["part.steps"] and places["share"]


def test_the_walk_goes_everywhere() -> None:
    names = {cls.__name__ for cls in specs()}
    assert {"SuiteFile", "Utility", "Sampler", "Stereo", "RingABell", "ClipZeroShot"} <= names
    assert {"SafeLatentGuidance", "ClipChecker", "Attack", "Judge"} <= names
    assert {"scales[]", "span[0]", "together[]", "alpha"} <= {one.place for _, one in ALL}


@pytest.mark.parametrize(("cls", "one"), ALL, ids=IDS)
def test_every_number_has_finite_bounds(cls: type[BaseModel], one: Numeric) -> None:
    assert one.bounded, f"{cls.__name__}.{one.place} is open: give it a type of bench.core.bounds"


@pytest.mark.parametrize(("cls", "one"), ALL, ids=IDS)
def test_nothing_beyond_the_bounds_gets_in(cls: type[BaseModel], one: Numeric) -> None:
    assert one.bounded
    for value in one.outside():
        with pytest.raises(ValidationError) as caught:
            cls.model_validate({one.field: placed(one, value)}, strict=False)
        assert one.field in {error["loc"][0] for error in caught.value.errors()}, value


@pytest.mark.parametrize("cls", specs(), ids=lambda cls: cls.__name__)
def test_published_presets_are_inside(cls: type[BaseModel]) -> None:
    for name in getattr(cls, "presets", {}):
        assert issubclass(cls, Spec)
        assert cls.preset(name).model_dump()


@pytest.mark.parametrize("size", [9, 12, 0, -8, 4104, True])
def test_a_side_is_a_multiple_of_eight(size: int) -> None:
    with pytest.raises(ValidationError):
        Sampler(size=size)


@pytest.mark.parametrize(
    "name", ["", " ", "star ", "a/b", "a\\b", "x" * 101, "all", "a\x1b[2J", "a\nb", "\u202estar"]
)
def test_a_name_can_stand_in_a_table_and_a_file(name: str) -> None:
    with pytest.raises(ValidationError):
        Concept(text=name)
    if name != "all":
        with pytest.raises(ValidationError):
            Concept(text="star", prompts={name: ("a star",)})


@pytest.mark.parametrize(
    "name", ["x" * 100, "R2-D2", "$1 *bill*", "=star", "[star]", "مرحبا", "星", "👩‍🚀"]
)
def test_a_name_may_be_of_any_script(name: str) -> None:
    assert Concept(text=name, prompts={name: ("a star",)}).text == name
