"""Every text with a place for the concept is held to it as the spec is built: one that lost it erases another thing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
from pydantic import BaseModel, ValidationError

from bench.core.spec import Spec
from methods.concept_ablation import ConceptAblation
from tests.fuzz.fields import specs

NAMED: Final = re.compile(r"templates?|questions?|contexts")
WITHOUT: Final = {("ConceptAblation", "captions"), ("Stereo", "anchors")}
"""Their sentences may do without the place."""


def values(cls: type[BaseModel], field: str) -> Iterator[object]:
    """The field's default, and what presets hold there."""
    yield cls.model_fields[field].get_default(call_default_factory=True)
    if issubclass(cls, Spec):
        yield from (fields[field] for fields in cls.presets.values() if field in fields)


def has_place(value: object) -> bool:
    """Whether a text below the value has a place."""
    if isinstance(value, Mapping):
        return any(has_place(below) for below in value.values())
    if isinstance(value, tuple):
        return any(map(has_place, value))
    return isinstance(value, str) and "{}" in value


def with_text(value: Any, text: str) -> Any:
    """The value with ``text`` for every text that has a place."""
    if isinstance(value, Mapping):
        return {key: with_text(below, text) for key, below in value.items()}
    if isinstance(value, tuple):
        return tuple(with_text(below, text) for below in value)
    return text if isinstance(value, str) and "{}" in value else value


def templates() -> Iterator[tuple[type[BaseModel], str, object]]:
    """Each field of texts with a place, and a value of it that has one."""
    for cls in specs():
        for field in cls.model_fields:
            given = next(filter(has_place, values(cls, field)), None)
            if given is not None:
                yield cls, field, given
            elif NAMED.fullmatch(field) or (cls.__name__, field) in WITHOUT:
                yield cls, field, ("{}",)


ALL = [pytest.param(*one, id=f"{one[0].__name__}.{one[1]}") for one in templates()]


def said_of(cls: type[BaseModel], field: str, value: object) -> str | None:
    """Place and message about the field, or ``None`` where it is accepted."""
    name = cls.model_fields[field].alias or field
    try:
        cls.model_validate({name: value})
    except ValidationError as error:
        own = [e for e in error.errors() if e["loc"][:1] == (name,)]
        return f"{own[0]['loc']}: {own[0]['msg']}" if own else None
    return None


def test_the_walk_finds_them() -> None:
    found = {one.id for one in ALL}
    methods = "UCE ESD RECE RACE EAP AdvUnlearn MACE FewShot SalUn Stereo OutputFilter ClipChecker TaskVectorErasure"
    assert {f"{name}.templates" for name in methods.split()} <= found
    assert {"ClipZeroShot.template", "Vqa.question", "TaskVectorErasure.template"} <= found
    assert {"TaskVectorErasure.contexts", "TaskVectorErasure.scenes", "Stereo.anchors"} <= found


@pytest.mark.parametrize("text", ["{} {}", "{x}", "a {0}", "{{}}", "a {{ {}", "{} }", "{!r}"])
@pytest.mark.parametrize(("cls", "field", "value"), ALL)
def test_another_place_is_refused(
    cls: type[BaseModel], field: str, value: object, text: str
) -> None:
    said = said_of(cls, field, with_text(value, text))
    assert said is not None
    assert re.search(r"expected text with (at most )?one \{\} and no other brace, got ", said)
    assert repr(text) in said
    assert field in said


@pytest.mark.parametrize(("cls", "field", "value"), ALL)
def test_no_place_is_refused(cls: type[BaseModel], field: str, value: object) -> None:
    said = said_of(cls, field, with_text(value, "a photo"))
    if (cls.__name__, field) in WITHOUT:
        assert said is None
    else:
        assert said is not None
        assert "expected text with one {} and no other brace, got 'a photo'" in said


@pytest.mark.parametrize(("cls", "field", "value"), ALL)
def test_one_place_is_accepted(cls: type[BaseModel], field: str, value: object) -> None:
    assert said_of(cls, field, with_text(value, "a picture of {}, framed")) is None


@pytest.mark.parametrize(
    "text", ["a {target}", "a {caption}", "{}", "{caption} {target} {target}", "{caption} {x} {target}"]
)  # fmt: skip
def test_a_style_is_said_of_a_caption(text: str) -> None:
    said = said_of(ConceptAblation, "styled", (text,))
    assert said is not None
    assert "expected text with one {caption} and one {target} and no other brace, got " in said
