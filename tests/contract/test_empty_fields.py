"""A text field that may be left empty says what it means then: "empty: the miniature's", or that it is required.

Some are empty for the miniature's network, some for none, some for the family's: nobody can guess which.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from bench.core.spec import Spec
from tests.fuzz.fields import specs


def described(cls: type[BaseModel], field: str) -> str:
    """The entry of a field in the ``Attributes`` of the nearest class that has one, on one line; empty without."""
    for known in cls.__mro__:
        _, found, section = inspect.cleandoc(known.__doc__ or "").partition("\nAttributes:\n")
        entry = re.search(rf"^    {field}: (.*\n?(?:^     +.*\n?)*)", section, re.MULTILINE)
        if found and entry:
            return " ".join(entry[1].split())
    return ""


def says(cls: type[BaseModel], field: str) -> bool:
    """Whether the field's entry says what it means to leave it empty."""
    told, needs = described(cls, field), getattr(cls, "needs", ())
    return "; empty: " in told or (field in needs and told.endswith(" Required."))


def left_empty(cls: type[BaseModel]) -> list[str]:
    """The text fields that are empty by default."""
    return [name for name, info in cls.model_fields.items() if info.get_default() == ""]


class Silent(Spec):
    """A new spec, as it looks before anybody has thought of it.

    Attributes:
        source: A folder; empty: none.
        place: A folder, which may be empty.
            It goes on here.
        weights: A file. Required.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    source: str = ""
    place: str = ""
    weights: str = ""
    more: Any = ""
    unsaid: str = ""


def test_one_that_does_not_say_is_found() -> None:
    assert described(Silent, "place") == "A folder, which may be empty. It goes on here."
    assert [name for name in left_empty(Silent) if not says(Silent, name)] == [
        "place", "weights", "more", "unsaid",
    ]  # fmt: skip


@pytest.mark.parametrize("cls", specs(), ids=lambda cls: cls.__name__)
def test_a_field_that_is_empty_says_what_that_means(cls: type[BaseModel]) -> None:
    silent = [name for name in left_empty(cls) if not says(cls, name)]
    assert not silent, (
        "say `; empty: ...` in the docstring, or name it in `needs` and say `Required.`"
    )
