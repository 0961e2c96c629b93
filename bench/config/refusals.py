"""Refuses a suite whose parts do not go together: its base, controls, networks of judges, and groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from bench.config.parts import below
from bench.config.suite_file import Entry, SuiteFile, Utility
from bench.core.errors import UsageError, did_you_mean, shown
from bench.core.shipped import MINIATURES
from bench.core.spec import Spec
from bench.interfaces import Judge
from bench.model.pipeline.inspect import local_folder, looks_local

__all__ = [
    "CONTROLS",
    "check_base",
    "check_controls",
    "check_networks",
    "check_sides",
    "check_together",
    "check_utility",
]

CONTROLS: Final[dict[str, tuple[str, ...]]] = {
    "methods": ("none", "destroyed"),
    "attacks": ("prompts", "random_tokens", "seed_search"),
}
"""The controls of every suite, by key: numbers without them say nothing."""

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_sides(judges: Iterable[Judge], size: int | None, *, own: int | None = None) -> None:
    """Refuses images of a size that a judge does not take.

    Args:
        judges: Those that look at them.
        size: The sampler's, in pixels of a side; ``None``: images have the base's own.
        own: The base's, where it is known.

    Raises:
        UsageError: with the judge, at the sampler's size.
    """
    side = own if size is None else size
    got = (
        f"none, and {side} is the base's own; set it, or take another base or judge"
        if size is None
        else f"{side}; leave it out or take another judge"
    )
    for judge in judges:
        if side is not None and judge.side not in (None, side):
            raise UsageError(
                f"expected {judge.side}, the only size that {judge.label} sees, got {got}",
                at=("sampler", "size"),
            )


def check_base(file: SuiteFile) -> None:
    """Refuses a base that is neither here nor can be asked of a hub, commit and all.

    Raises:
        UsageError: at ``base`` or ``revision``.
    """
    base, revision = file.base, file.revision
    with below("base"):
        local = local_folder(base) is not None
    if not local and looks_local(base):
        raise UsageError(f"expected a folder, got {shown(base)}: no such folder", at=("base",))
    if not local and not _HUB_ID.fullmatch(base):
        meant = did_you_mean(base, MINIATURES)
        expected = "expected 'miniature', a folder, or a hub id (owner/name)"
        raise UsageError(f"{expected}, got {shown(base)}{meant}", at=("base",))
    if local and revision is not None:
        message = f"expected none, as base {base} is local, got {shown(revision)}"
        raise UsageError(message, at=("revision",))
    if not local and revision is None:
        message = f"expected a revision for hub id {base}, got none; name a commit"
        raise UsageError(message, at=("base",))
    if not local and not _COMMIT.fullmatch(revision or ""):
        message = f"expected a commit of 40 hexadecimal digits, got {shown(revision)}"
        raise UsageError(message, at=("revision",))


def check_controls(key: str, specs: Sequence[Spec]) -> None:
    """Refuses a list without its controls.

    Args:
        key: ``methods`` or ``attacks``.
        specs: What stands there.

    Raises:
        UsageError: at the key, with those that are missing.
    """
    there, controls = {spec.name for spec in specs}, CONTROLS[key]
    if missing := [control for control in controls if control not in there]:
        wanted, lacking = " and ".join(controls), ", ".join(missing)
        message = f"expected the controls {wanted} in every suite; add {lacking}"
        raise UsageError(message, at=(key,))


def check_networks(judges: Sequence[Judge], surrogate: Judge, entry: Entry) -> None:
    """Refuses a surrogate that sees as a judge does: attacks would grade themselves.

    Args:
        judges: Those that decide.
        surrogate: Guides the attacks.
        entry: How the suite file names it.

    Raises:
        UsageError: at ``surrogate``.
    """
    own = surrogate.network
    for index, judge in enumerate(judges):
        if judge.network == own:
            message = f"expected a judge that does not decide, got {shown(entry)}"
            same = f"it looks through the network of judges[{index}], {judge.label}"
            raise UsageError(f"{message}, which is among the judges: {same}", at=("surrogate",))


def check_together(sizes: Sequence[int], count: int) -> None:
    """Refuses groups that the concepts do not fill.

    Args:
        sizes: How many are erased together, one or more numbers.
        count: Of the concepts.

    Raises:
        UsageError: at ``together``.
    """
    if (most := max(sizes)) > count:
        message = f"expected at most the {count} of concepts, got {most}"
    elif len(sizes) > 1 and (odd := [size for size in sizes if count % size]):
        message = f"expected numbers that divide the {count} of concepts, got {odd[0]}"
    elif len(set(sizes)) < len(sizes):
        message = f"expected each number once, got {shown(list(sizes))}"
    else:
        return
    raise UsageError(message, at=("together",))


def check_utility(utility: Utility) -> None:
    """Refuses to pick rows of a file that is not named.

    Raises:
        UsageError: at ``utility``.
    """
    if utility.file is None and (said := utility.picking()):
        key = next(iter(said))
        raise UsageError("expected a file too, whose rows it picks", at=("utility", key))
