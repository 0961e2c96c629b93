"""A suite around one model of a user's: the controls, the base and that model, on the concepts it should have lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.config.suite import Suite, load_suite, read_suite, suite_names
from bench.core.errors import UsageError
from methods.released.hub import place_of

__all__ = ["Own", "own_suite"]

_CLASS: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NAME: Final = re.compile(r"[^A-Za-z0-9]+")
_QUICK: Final = "-quick"
_CONTROLS: Final = ("none", "destroyed")


@dataclass(frozen=True, slots=True)
class Own:
    """A suite that holds one model of a user's.

    Attributes:
        suite: The suite, with a name of its own.
        of: The suite that it was made from; results of that compare.
        label: The user's line in its tables.
    """

    suite: Suite
    of: str
    label: str


def own_suite(
    what: str,
    concepts: Sequence[str],
    *,
    suite: str | None = None,
    base: str | None = None,
    revision: str | None = None,
) -> Own:
    """A suite's protocol on one model and its controls.

    Args:
        what: A folder or a file of weights, ``owner/name@commit[/folder]`` of the hub, or a method's
            ``module:Class``, which is imported.
        concepts: What the model should no longer draw, by the names that the suite or the base knows.
        suite: A shipped suite or a file; ``None``: the quick one that is shipped for the base.
        base: What the model was made from, where that is not the suite's base.
        revision: The commit of a base from the hub.

    Raises:
        UsageError: nothing is there, no suite is shipped for the base, or a concept is not known.
    """
    if not concepts:
        raise UsageError("--concept: expected what the model should have lost, got none")
    source = suite or _shipped_for(base or "miniature")
    loaded = load_suite(source)
    label, entry = _entry(what)
    name = f"{loaded.name}-{_NAME.sub('-', label).strip('-').lower() or 'model'}"
    changes: dict[str, Any] = {
        "name": name,
        "concepts": list(concepts),
        "methods": [*_CONTROLS, entry],
        "transfer": [],
    }
    if base is not None:
        changes |= {"base": base, "revision": revision}
    return Own(loaded.with_(**changes), loaded.name, label)


def _shipped_for(base: str) -> str:
    """The quick suite that is shipped for a base.

    Raises:
        UsageError: there is none, or there are several, which ask different questions.
    """
    fit = [n for n in suite_names() if n.endswith(_QUICK) and read_suite(n).base == base]
    if len(fit) > 1:
        several = ", ".join(fit)
        raise UsageError(
            f"--suite: expected which of the suites for the base {base!r}, got none; name one: {several}"
        )
    if fit:
        return fit[0]
    raise UsageError(
        f"--suite: expected a suite for the base {base!r}, got none; none is shipped for it: write one "
        "(docs/suites.md) and give --suite FILE.yaml"
    )


def _entry(what: str) -> tuple[str, dict[str, Any]]:
    """The line's name, and the entry of the suite."""
    if Path(what).expanduser().exists():
        label = Path(what).expanduser().resolve().stem
        return label, {"checkpoint": {"path": what, "as": label}}
    if place := place_of(what):
        label = place["hub"].replace("/", " ")
        return label, {"checkpoint": {**place, "as": label}}
    if _CLASS.fullmatch(what):
        label = what.partition(":")[2]
        return label, {what: {"as": label}}
    raise UsageError(
        f"{what}: expected a folder, a file, owner/name@commit of the hub (40 hex digits) or module:Class, and found "
        "nothing there"
    )
