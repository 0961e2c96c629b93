"""Builds what a suite file names: each entry once, and an error says at which key it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import ValidationError

from bench.config.suite_file import Entry
from bench.core.errors import UsageError, from_pydantic, shown, unknown
from bench.core.spec import Spec
from bench.interfaces import Attack, registry

__all__ = ["below", "listed", "made", "moving"]

AnySpec = TypeVar("AnySpec", bound=Spec)


@contextmanager
def below(*path: str | int) -> Iterator[None]:
    """Errors inside have their place seen from ``path`` further up."""
    try:
        yield
    except UsageError as error:
        raise error.below(*path) from error


def made(cls: type[AnySpec], fields: Mapping[str, Any]) -> AnySpec:
    """The spec of these fields.

    Raises:
        UsageError: a key or a value does not suit it.
    """
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        raise from_pydantic(error, cls) from error


def listed(kind: registry.PlugPoint, key: str, entries: Sequence[Entry]) -> tuple[Spec, ...]:
    """The plug-ins of a key's entries, in order.

    Args:
        kind: Their plug point.
        key: Of the suite file, for the errors.
        entries: What stands there.

    Raises:
        UsageError: an entry cannot be built, or two have one label or are the same.
    """
    built: dict[str, Spec] = {}
    for index, entry in enumerate(entries):
        with below(key, index):
            spec = registry.build(kind, entry)
            label = spec.label
            twin = next(
                (i for i, (n, s) in enumerate(built.items()) if n == label or s == spec), None
            )
            if twin is not None:
                message = f"is {shown(label)}, as {key}[{twin}] is; change a field or drop one"
                raise UsageError(message)
            built[label] = spec
    return tuple(built.values())


def moving(attacks: Sequence[Attack], names: Sequence[str]) -> tuple[Attack, ...]:
    """The attacks whose candidates are tried on every other method, in the order of ``attacks``.

    Args:
        attacks: Those of the suite.
        names: Names or labels of some of them.

    Raises:
        UsageError: there is no attack of a name.
    """
    called = {attack.label: {attack.name, attack.label} for attack in attacks}
    known = {name for both in called.values() for name in both}
    for index, name in enumerate(names):
        if name not in known:
            raise UsageError(unknown("attack", name, known), at=("transfer", index))
    both = zip(attacks, called.values(), strict=True)
    return tuple(attack for attack, mine in both if not mine.isdisjoint(names))
