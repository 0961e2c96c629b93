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

from bench.core.spec import Spec
from bench.interfaces import Attack, Erasure, Judge, Metric, SetMetric, registry

DOCS = Path(__file__).parents[2] / "docs"
PAGES: dict[type[Spec], str] = {
    Erasure: "add-a-method",
    Attack: "add-an-attack",
    Judge: "add-a-judge",
    Metric: "add-a-judge",
    SetMetric: "add-a-judge",
}
"""What an example derives from -> its page."""
_FILE = re.compile(r"^Save it as `(\w+)\.py`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BASES: dict[registry.PlugPoint, type[Spec]] = {"method": Erasure, "attack": Attack}


def page(base: type[Spec]) -> str:
    """The page that has the example."""
    return (DOCS / f"{PAGES[base]}.md").read_text()


@cache
def example(base: type[Spec]) -> tuple[str, str, str]:
    """The module, the class and the code of a page's example: its first file with a class of the base."""
    for module, code in _FILE.findall(page(base)):
        if cls := re.search(rf"^class (\w+)\({base.__name__}\):", code, re.MULTILINE):
            return module, cls[1], code
    raise AssertionError(f"docs/{PAGES[base]}.md holds no example of {base.__name__}")


@cache
def documented(base: type[Spec]) -> str:
    """``module:Class`` of a page's example, which can be imported from here on."""
    name, cls, code = example(base)
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(code, f"docs/{PAGES[base]}.md", "exec"), vars(module))
    return f"{name}:{cls}"


def specs(kind: registry.PlugPoint) -> Iterator[Any]:
    """A parameter of pytest per plug-in and preset, made small by ``quick``; and the documented example.

    Presets that differ in nothing but what ``quick`` sets are one.
    """
    for name in [*registry.names(kind), documented(_BASES[kind])]:
        cls = registry.get(kind, name)
        if cls.needs:
            continue  # only a user can build it: its own tests check the contract
        made = {name.partition(":")[0]: cls(**cls.quick)}
        made |= {f"{cls.name}[{preset}]": cls.preset(preset, **cls.quick) for preset in cls.presets}
        for label, spec in made.items():
            alike = [other for other, same in made.items() if same == spec]
            if alike[0] == label:
                yield pytest.param(spec, id="=".join(alike))
