"""The classes of a base's parts, held against its family's list, read before any library sees the folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import UsageError, shown
from bench.model.families.family import Family
from bench.model.families.known import family_named

__all__ = ["check_index"]


def check_index(index: Mapping[str, Any], path: Path) -> tuple[type[Family], dict[str, str]]:
    """The family of a base and the class of each part that is loaded.

    Raises:
        UsageError: another pipeline, another class, or a part that the family has not.
    """
    try:
        family = family_named(index.get("_class_name"))
    except UsageError as error:
        raise UsageError(f"{path}: _class_name: {error}") from error
    allowed = {**family.classes, **family.unused}
    classes = {}
    for part, pair in index.items():
        if (
            part.startswith("_")
            or part == "requires_safety_checker"
            or pair in (None, [None, None])
        ):
            continue
        if part in family.options:
            if pair != family.options[part]:
                raise UsageError(
                    f"{path}: {part}: expected {shown(family.options[part])}, got {shown(pair)}; "
                    "any other is not supported"
                )
            continue
        if part not in allowed:
            raise UsageError(f"{path}: {shown(part)}: no part of a {family.pipeline}")
        match pair:
            case [str(library), str(kind)] if (library, kind) in allowed[part]:
                classes[part] = kind
            case _:
                known = sorted(allowed[part])
                expected = ", ".join(f"[{library}, {kind}]" for library, kind in known)
                raise UsageError(f"{path}: {part}: expected {expected}, got {shown(pair)}")
    if missing := [part for part in family.classes if part not in classes]:
        raise UsageError(
            f"{path.parent} lacks {', '.join(missing)}; expected a pipeline of {family.about}"
        )
    return family, {part: classes[part] for part in family.classes}
