"""Finds methods, attacks, judges and metrics by name: ours, a package's entry point, or ``module:Class``.

Ours need no list: a class in a module of the packages below is known by its file being there. Nothing is imported
before the first question, and a plug-in that cannot be imported is an error that names it.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError

from bench.errors import UsageError, from_pydantic, shown, unknown
from bench.spec import Spec

if TYPE_CHECKING:
    from bench.interfaces import Plugin

__all__ = ["ENTRY_POINTS", "PACKAGES", "Kind", "build", "get", "names", "plugins"]

Kind = Literal["method", "attack", "judge", "metric"]

ENTRY_POINTS: Final = "tvc_bench.plugins"
PACKAGES: Final[dict[Kind, tuple[str, ...]]] = {
    "method": ("methods", "tvc"),
    "attack": ("attacks",),
    "judge": ("bench.judges",),
    "metric": ("bench.metrics",),
}
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_REFERENCE = re.compile(r"(?a:([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*))")


def names(kind: Kind) -> list[str]:
    """The names of the registered plug-ins of a kind, sorted."""
    return sorted(plugins(kind))


def get(kind: Kind, name: str) -> type[Spec]:
    """The class of a plug-in.

    Args:
        kind: ``method``, ``attack``, ``judge`` or ``metric``.
        name: Its registered name, or ``module:Class``.

    Raises:
        UsageError: there is no such plug-in, or it cannot be used.
    """
    known = plugins(kind)
    if name in known:
        return known[name].cls
    if ":" not in name:
        raise UsageError(unknown(kind, name, known))
    if not (reference := _REFERENCE.fullmatch(name)):
        raise UsageError(f"expected module:Class, got {shown(name)}")
    cls = _class_of(kind, getattr(_import(reference[1]), reference[2], None), name)
    if (namesake := known.get(cls.name)) and namesake.cls is not cls:
        raise _duplicate(kind, cls.name, _origin(namesake.cls, namesake.source), name)
    return cls


def build(kind: Kind, entry: str | Mapping[str, Mapping[str, Any]]) -> Spec:
    """The plug-in of a suite's entry.

    Args:
        kind: ``method``, ``attack``, ``judge`` or ``metric``.
        entry: A name, ``module:Class``, or ``{name: {field: value, preset: published constants}}``.

    Raises:
        UsageError: there is no such plug-in, or a field, a value or the preset does not suit it.
    """
    name, fields = _entry(kind, entry)
    cls = get(kind, name)
    values = dict(fields)
    try:
        if (preset := values.pop("preset", None)) is None:
            return cls(**values)
        if preset not in cls.presets:
            message = unknown(f"preset of {cls.name}", preset, cls.presets)
            raise UsageError(message, at=(name, "preset"))
        return cls.preset(preset, **values)
    except ValidationError as error:
        raise from_pydantic(error, cls).below(name) from error


@cache
def plugins(kind: Kind) -> Mapping[str, Plugin]:
    """The registered plug-ins of a kind by name.

    Raises:
        UsageError: one cannot be imported, is no plug-in, or bears another's name.
    """
    from bench.interfaces import Plugin

    if kind not in PACKAGES:
        raise UsageError(unknown("kind of plug-in", kind, PACKAGES))
    found: dict[str, Plugin] = {}
    for cls, source in (*_built_in(kind), *_third_party(kind)):
        other = found.setdefault(cls.name, Plugin(cls, source))
        if other.cls is not cls:
            origins = _origin(other.cls, other.source), _origin(cls, source)
            raise _duplicate(kind, cls.name, *origins)
    return found


def _built_in(kind: Kind) -> Iterator[tuple[type[Spec], str]]:
    base = _bases()[kind]
    for package in PACKAGES[kind]:
        for info in sorted(pkgutil.iter_modules(_import(package).__path__, f"{package}.")):
            if info.name.rpartition(".")[2].startswith("_"):
                continue
            module = _import(info.name)
            for cls in dict.fromkeys(vars(module).values()) if _hashable(module) else ():
                if _is_plugin(cls, base) and cls.__module__ == module.__name__ and cls.name:
                    yield _class_of(kind, cls, _origin(cls, "")), "built in"


def _third_party(kind: Kind) -> Iterator[tuple[type[Spec], str]]:
    for point in sorted(entry_points(group=ENTRY_POINTS)):
        source = f"entry point {point.name} of {point.dist.name if point.dist else 'a package'}"
        if not (reference := _REFERENCE.fullmatch(point.value)):
            raise UsageError(f"{source}: expected module:Class, got {shown(point.value)}")
        cls = getattr(_import(reference[1], source), reference[2], None)
        of = getattr(cls, "kind", None)
        if of not in PACKAGES:
            raise UsageError(f"{source}: expected a {', '.join(PACKAGES)}; got {shown(cls)}")
        if of == kind:
            yield _class_of(kind, cls, f"{source}: {point.value}"), source
