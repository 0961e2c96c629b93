"""The complete examples of the pages for authors, as classes of the registry; and the specs that are tested."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.interfaces import registry

DOCS = Path(__file__).parents[2] / "docs"
PAGES: dict[registry.PlugPoint, str] = {"method": "add-a-method", "attack": "add-an-attack"}
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CLASS = re.compile(r"^class (\w+)\((?:Erasure|Attack)\):", re.MULTILINE)


@cache
def example(kind: registry.PlugPoint) -> str:
    """The code of a page's example, which is the first on it."""
    found = _BLOCK.search((DOCS / f"{PAGES[kind]}.md").read_text())
    assert found, f"docs/{PAGES[kind]}.md holds no example"
    return found[1]


@cache
def documented(kind: registry.PlugPoint) -> str:
    """``module:Class`` of a page's example, which can be imported from here on."""
    code, name = example(kind), f"documented_{kind}"
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(code, f"docs/{PAGES[kind]}.md", "exec"), vars(module))
    cls = _CLASS.search(code)
    assert cls
    return f"{name}:{cls[1]}"


def specs(kind: registry.PlugPoint) -> Iterator[Any]:
    """A parameter of pytest per plug-in and preset, made small by ``quick``; and the documented example.

    Presets that differ in nothing but what ``quick`` sets are one.
    """
    for name in [*registry.names(kind), documented(kind)]:
        cls = registry.get(kind, name)
        if cls.needs:
            continue  # only a user can build it: its own tests check the contract
        made = {name.partition(":")[0]: cls(**cls.quick)}
        made |= {f"{cls.name}[{preset}]": cls.preset(preset, **cls.quick) for preset in cls.presets}
        for label, spec in made.items():
            alike = [other for other, same in made.items() if same == spec]
            if alike[0] == label:
                yield pytest.param(spec, id="=".join(alike))
