"""Lists of what there is to choose from, as name and description: plug-ins, suites, concepts, entries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from bench.core.errors import UsageError

if TYPE_CHECKING:
    from bench.core.spec import Spec
    from bench.interfaces import registry

__all__ = ["Listed", "listing"]

Listed = Literal["methods", "attacks", "judges", "metrics", "suites", "concepts", "store"]


def listing(what: Listed, store: Path) -> list[dict[str, str]]:
    """A row of ``name`` and ``about`` for each.

    Raises:
        UsageError: ``store`` is asked for and not there.
    """
    match what:
        case "suites":
            return _suites()
        case "concepts":
            return _concepts()
        case "store":
            return _entries(store)
        case _:
            return _plugins(cast("registry.PlugPoint", what.removesuffix("s")))


def _plugins(kind: registry.PlugPoint) -> list[dict[str, str]]:
    from bench.interfaces import registry

    specs = {n: registry.get(kind, n) for n in registry.names(kind)}
    return [{"name": n, "about": _about(c)} for n, c in specs.items()]


def _suites() -> list[dict[str, str]]:
    from bench.config.suite import load_suite, suite_names

    return [
        {
            "name": n,
            "about": f"{len(s.concepts)} concepts, {len(s.methods)} methods, {len(s.attacks)} attacks"
            f"{f'; protocol {s.file.protocol}' if s.file.protocol else ''}",
        }
        for n, s in ((n, load_suite(n)) for n in suite_names())
    ]


def _concepts() -> list[dict[str, str]]:
    from bench.config.suite import load_suite

    known = load_suite("mini-quick").known_concepts
    return [
        {"name": n, "about": f"{c.family}; near: {', '.join(c.neighbours)}"}
        for n, c in known.items()
    ]


def _entries(store: Path) -> list[dict[str, str]]:
    from bench.run.store import Store

    if not store.is_dir():
        raise UsageError(f"--store {store}: no such folder; run a suite first")
    return [
        {"name": e.digest[:12], "about": str(e.record.get("title", e.kind))}
        for e in Store(store).entries()
    ]


def _about(cls: type[Spec]) -> str:
    first = (cls.__doc__ or "").strip().splitlines()[0]
    return f"{first} Presets: {', '.join(cls.presets)}." if cls.presets else first
