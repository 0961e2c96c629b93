"""Finds methods, attacks, judges and metrics: by name, entry point or ``module:Class``.

Ours need no list: a class in a module of the packages below is known by its file being there.
Nothing is imported before the first question, and a plug-in that cannot be imported is an error
that names it.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Final, Literal

from pydantic import ValidationError

from bench.core.errors import UsageError, from_pydantic, shown, unknown
from bench.core.spec import Spec
from bench.interfaces.attack import Attack
from bench.interfaces.erasure import Erasure
from bench.interfaces.judge import Judge
from bench.interfaces.metric import Measure

__all__ = [
    "ENTRY_POINTS",
    "PACKAGES",
    "PlugPoint",
    "Plugin",
    "build",
    "complete",
    "get",
    "load",
    "names",
    "plugins",
]

PlugPoint = Literal["method", "attack", "judge", "metric"]

ENTRY_POINTS: Final = "tvc_bench.plugins"
PACKAGES: Final[dict[PlugPoint, tuple[str, ...]]] = {
    "method": ("methods", "tvc"),
    "attack": ("attacks",),
    "judge": ("bench.judges",),
    "metric": ("bench.metrics",),
}
_BASES: Final[dict[PlugPoint, type[Spec]]] = {
    "method": Erasure, "attack": Attack, "judge": Judge, "metric": Measure,
}  # fmt: skip
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_CALLED = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,59}")
_FIXED = ("none", "destroyed", "prompts", "all")
_REFERENCE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Plugin:
    """A registered class and where it came from."""

    cls: type[Spec]
    source: str = "built in"


def names(kind: PlugPoint) -> list[str]:
    """The names of the registered plug-ins of a kind, sorted."""
    return sorted(plugins(kind))


def get(kind: PlugPoint, name: str) -> type[Spec]:
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
    cls = _checked(kind, _load(name), name)
    plugin = Plugin(cls, "the suite")
    return _different(kind, cls.name, known.get(cls.name, plugin), plugin).cls


def build(kind: PlugPoint, entry: str | Mapping[str, Mapping[str, Any]]) -> Spec:
    """The plug-in of a suite's entry.

    Args:
        kind: ``method``, ``attack``, ``judge`` or ``metric``.
        entry: A name, ``module:Class``, or ``{name: {field: value}}``. Two keys are no
            fields: ``preset`` names published constants, and ``as`` what tables call the spec.

    Raises:
        UsageError: there is no such plug-in, a field, a value or the preset does not suit it, or
            it lacks a field that it needs.
    """
    name, fields = _entry(entry)
    cls = get(kind, name)
    called = _own_name(cls, fields.pop("as"), name) if "as" in fields else ""
    try:
        if "preset" not in fields:
            spec = cls(**fields)
        else:
            preset = fields.pop("preset")
            if not isinstance(preset, str) or preset not in cls.presets:
                message = unknown(f"preset of {cls.name}", preset, cls.presets)
                raise UsageError(message, at=(name, "preset"))
            spec = cls.preset(preset, **fields)
    except ValidationError as error:
        raise from_pydantic(error, cls).below(name) from error
    spec = complete(spec, name)
    return spec.called(called) if called else spec


def _own_name(cls: type[Spec], called: object, entry: str) -> str:
    """The name that an entry gives by ``as``.

    Raises:
        UsageError: it is no name, another plug-in's, or the plug-in is a control, which tables know
            by its own.
    """
    at = (entry, "as")
    if not isinstance(called, str) or not _CALLED.fullmatch(called):
        expected = "a name of letters, digits, spaces and . _ + -, at most 60"
        raise UsageError(f"expected {expected}, got {shown(called)}", at=at)
    if cls.name in _FIXED or called in _FIXED:
        raise UsageError(f"tables know {' and '.join(_FIXED)} by these names; drop this key", at=at)
    if called != cls.name and any(called in plugins(kind) for kind in PACKAGES):
        raise UsageError(f"{shown(called)} is another plug-in; choose another name", at=at)
    return called


@cache
def plugins(kind: PlugPoint) -> Mapping[str, Plugin]:
    """The registered plug-ins of a kind by name.

    Raises:
        UsageError: one cannot be imported, is no plug-in, or bears another's name.
    """
    if kind not in PACKAGES:
        raise UsageError(unknown("kind of plug-in", kind, PACKAGES))
    found: dict[str, Plugin] = {}
    for cls, source in (*_built_in(kind), *_third_party(kind)):
        plugin = Plugin(cls, source)
        found[cls.name] = _different(kind, cls.name, found.get(cls.name, plugin), plugin)
    return found


def load() -> None:
    """Imports every registered plug-in, and with it the guidances and filters that its module defines.

    Raises:
        UsageError: see :func:`plugins`.
    """
    for kind in PACKAGES:
        plugins(kind)


def complete(spec: Spec, called: str) -> Spec:
    """The spec itself, if it has what only a user can give.

    Args:
        spec: Any.
        called: What the user called it, for the error.

    Raises:
        UsageError: it lacks a field that it needs.
    """
    if spec.lacking:
        message = f"expected this key, got none; {spec.name} can do nothing without it"
        raise UsageError(message, at=(called, spec.lacking[0]))
    return spec


def _built_in(kind: PlugPoint) -> Iterator[tuple[type[Spec], str]]:
    base = _BASES[kind]
    for package in PACKAGES[kind]:
        for info in pkgutil.iter_modules(_import(package).__path__, f"{package}."):
            module = _import(info.name)
            for cls in vars(module).values():
                if not (inspect.isclass(cls) and issubclass(cls, base)):
                    continue
                if cls.__module__ == info.name and cls.name and not inspect.isabstract(cls):
                    yield _checked(kind, cls, f"{info.name}:{cls.__name__}"), "built in"


def _third_party(kind: PlugPoint) -> Iterator[tuple[type[Spec], str]]:
    for point in sorted(entry_points(group=ENTRY_POINTS)):
        package = point.dist.name if point.dist else "an unnamed package"
        source = f"entry point {point.name} of {package}"
        cls = _load(point.value, f" ({source})")
        if (of := getattr(cls, "kind", None)) not in PACKAGES:
            raise UsageError(f"{source}: expected a {', '.join(PACKAGES)}, got {shown(cls)}")
        if of == kind:
            yield _checked(kind, cls, source), source


def _load(reference: str, of: str = "") -> object:
    if not (parts := _REFERENCE.fullmatch(reference)):
        raise UsageError(f"expected module:Class, got {shown(reference)}{of}")
    module = _import(parts[1], of)
    if parts[2] not in vars(module):
        values = vars(module).items()
        classes = [name for name, v in values if inspect.isclass(v) and issubclass(v, Spec)]
        raise UsageError(unknown(f"class of {parts[1]}", parts[2], classes) + of)
    return vars(module)[parts[2]]


def _import(module: str, of: str = "") -> ModuleType:
    try:
        return import_module(module)
    except (Exception, SystemExit) as error:  # whatever a plug-in's module does, it is named
        lost = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        hint = "; put its folder on PYTHONPATH or install it" if lost else ""
        reason = f"{type(error).__name__}: {error}{hint}"
        raise UsageError(f"cannot import plug-in module {module}{of}: {reason}") from error


def _checked(kind: PlugPoint, cls: object, where: str) -> type[Spec]:
    base = _BASES[kind]
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        expected = f"a subclass of bench.interfaces.{base.__name__}"  # an author's door
        raise UsageError(f"{where}: expected {expected}, got {shown(cls)}")
    if inspect.isabstract(cls):
        lacks = ", ".join(sorted(cls.__abstractmethods__))
        raise UsageError(
            f"{where}: expected methods of {base.__name__} all defined, got none for {lacks}"
        )
    if not _NAME.fullmatch(cls.name):
        expected = "a class attribute 'name' of a-z, 0-9 and _"
        raise UsageError(f"{where}: expected {expected}, got {shown(cls.name)}")
    return cls


def _entry(entry: object) -> tuple[str, dict[str, Any]]:
    match entry:
        case str():
            return entry, {}
        case Mapping() if len(entry) == 1:
            ((name, fields),) = entry.items()
            if not isinstance(name, str):
                raise UsageError(f"expected a name, got {shown(name)}")
            if not isinstance(fields, Mapping) or not all(isinstance(key, str) for key in fields):
                raise UsageError(f"expected a mapping of fields, got {shown(fields)}", at=(name,))
            return name, dict(fields)
    raise UsageError(f"expected a name, or one name with its fields, got {shown(entry)}")


def _different(kind: PlugPoint, name: str, one: Plugin, other: Plugin) -> Plugin:
    if one.cls is not other.cls:
        both = " and ".join(
            f"{p.cls.__module__}:{p.cls.__qualname__} ({p.source})" for p in (one, other)
        )
        raise UsageError(f"two {kind}s are named {name!r}: {both}; rename one")
    return one
