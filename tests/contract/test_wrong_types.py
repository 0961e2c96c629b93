"""Every field of every plug-in takes a value of any type, or refuses it in one line.

A validator may read what it was given before its type is known. It must not fall over it.
"""

from __future__ import annotations

from typing import Any, Final, get_args

import pytest

from bench.core.errors import UsageError
from bench.interfaces import registry
from bench.interfaces.registry import PlugPoint

VALUES: Final[tuple[Any, ...]] = (
    None, True, 3, -1.5, float("nan"), "x", "", b"x", [], [3], [None], [[]], ["x", ["y"]], {}, {"x": 3}, {"x": None},
    {"x": [3]}, {"x": ["y", None]}, {"x": {"y": 1}}, {3: "x"}, {"x": [["y", "z"], 3]},
)  # fmt: skip
PLUG_POINTS: Final[tuple[PlugPoint, ...]] = get_args(PlugPoint)


@pytest.mark.parametrize(
    ("point", "name"), [(p, n) for p in PLUG_POINTS for n in registry.names(p)]
)
def test_a_value_of_any_type_is_taken_or_refused_in_one_line(point: PlugPoint, name: str) -> None:
    cls = registry.get(point, name)
    keys = {field.alias or key for key, field in cls.model_fields.items()}
    refused = 0
    for key in sorted(keys | {"preset", "as", "nothing of that name"}):
        for value in VALUES:
            try:
                registry.build(point, {name: {key: value}})
            except UsageError as error:
                refused += 1
                assert "\n" not in str(error), (key, value)
    assert refused
