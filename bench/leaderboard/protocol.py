"""The protocol of a run: everything that a suite fixes but its methods, named by a digest.

A version is no number that somebody has to remember to raise. Another attack, threshold, seed or base is another
digest, so entries of different questions never share a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from bench.config.suite import Suite, load_suite, read_suite, suite_names
from bench.core.digest import canonical_json, digest_of, parse_json
from bench.core.errors import UsageError, shown
from bench.leaderboard.entry import Protocol
from bench.model.pipeline.inspect import inspect_base, local_folder
from bench.run.cells import EditCell
from bench.run.plan import Plan, make_plan

__all__ = ["edits_of", "plan_of", "plan_with", "protocol_of", "shipped_as", "spelled"]

_METHODS: Final = ("name", "base", "revision", "methods", "transfer")
"""The keys of a suite that may differ on one protocol; the base is known by its digest."""


def protocol_of(plan: Plan) -> Protocol:
    """The protocol that a plan follows, under the name of its suite."""
    told = plan.suite.identity(plan.attacks)
    fixed = {key: value for key, value in told.items() if key not in _METHODS}
    digest = digest_of({"kind": "protocol", **fixed, "base_digest": plan.base})
    return Protocol(
        suite=plan.suite.name,
        version=digest[:12],
        digest=digest,
        base=plan.base,
        judge=plan.judges[0].label,
    )


def plan_of(source: str | Path) -> Plan:
    """The plan of a suite: a shipped one by its name, or a file."""
    return _planned(load_suite(source))


@lru_cache(maxsize=64)
def _plan_with(suite: str, entry: str) -> Plan:
    loaded = load_suite(suite)
    methods = [spelled(loaded)[name] for name in _controls(loaded)]
    wanted: Any = parse_json(entry.encode())
    if wanted not in methods:
        methods.append(wanted)
    return _planned(loaded.with_(methods=methods, transfer=[]))


def plan_with(suite: str, entry: Any) -> Plan:
    """The plan of a shipped suite with its controls and one method.

    Args:
        suite: The name of a shipped suite.
        entry: The method, as a suite file spells it.

    Raises:
        UsageError: the suite is not shipped, or the method cannot be built here.
    """
    if suite not in suite_names():
        raise UsageError(f"expected the name of a shipped suite, got {shown(suite)}")
    _refuse_foreign(entry)
    return _plan_with(suite, canonical_json(entry))


def shipped_as(protocol: Protocol) -> str:
    """The name of the shipped suite that follows the same protocol.

    Raises:
        UsageError: none does.
    """
    by = {}
    for name in sorted(suite_names(), key=lambda name: name != protocol.suite):
        if name != protocol.suite and not _is_here(name):
            continue  # to look for a name, nobody downloads gigabytes
        try:
            by[name] = protocol_of(plan_of(name))
        except UsageError:  # its base may not be on this machine
            continue
        if by[name].digest == protocol.digest:
            return name
    raise UsageError(
        f"expected the protocol of a shipped suite, got {protocol.name}, and {protocol.suite} is "
        f"{by[protocol.suite].name if protocol.suite in by else 'not shipped'}; run the suite as it is shipped"
    )


def spelled(suite: Suite) -> Mapping[str, Any]:
    """The methods of a suite as its file spells them, by label."""
    spelled_so = zip(suite.methods, suite.file.methods, strict=True)
    return {method.label: _thawed(entry) for method, entry in spelled_so}


def edits_of(plan: Plan) -> dict[str, EditCell]:
    """An edit of each method of a plan, by its line in the tables."""
    found: dict[str, EditCell] = {}
    for cell in plan.cells:
        if isinstance(cell, EditCell):
            found.setdefault(cell.method_label, cell)
    return found


def _planned(suite: Suite) -> Plan:
    files = inspect_base(suite.base, commit=suite.revision)
    return make_plan(suite, files.digest, folder=files.folder)


def _is_here(name: str) -> bool:
    return local_folder(read_suite(name).base) is not None


def _controls(suite: Suite) -> Sequence[str]:
    return [method.label for method in suite.methods if method.control]


def _refuse_foreign(entry: Any) -> None:
    """Refuses an entry that would import code, or that names a file of somebody's own disk."""
    names = entry if isinstance(entry, Mapping) else [entry]
    for text in (*(str(name) for name in names), *_texts(entry)):
        if ":" in text and isinstance(entry, str | Mapping) and text in names:
            raise UsageError(
                f"expected a method of this repository, got the code {shown(text)}; add it to methods/"
            )
        if text.startswith(("/", "~", "./", "../")):
            raise UsageError(
                f"expected no path of one machine, got {shown(text)}; publish the weights and give their hub place"
            )


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for each in value.values():
                yield from _texts(each)
        case list() | tuple():
            for each in value:
                yield from _texts(each)


def _thawed(value: Any) -> Any:
    """The value with plain dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _thawed(each) for key, each in value.items()}
    return [_thawed(each) for each in value] if isinstance(value, list | tuple) else value
