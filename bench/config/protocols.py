"""The named protocols of suites: ``sd14-nudity@1`` stands for one question, and for no other.

A suite claims a name with its key ``protocol``. A name of ours holds only where all but the methods is as in the
shipped suite of that name. A copy with other prompts, budgets or judges does not have it. What no file can say,
such as the content of weights, is in the digest of the leaderboard (:mod:`bench.leaderboard.protocol`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.config.suite import read_suite, suite_names
from bench.config.suite_file import SuiteFile
from bench.core.digest import JSON, digest_of
from bench.core.spec import content
from bench.interfaces.prompt_source import PromptSource

__all__ = ["followed", "name_of", "named", "question"]

_FREE: Final = {"name", "methods", "transfer", "keep_images", "images"}
"""The keys that may differ on one protocol."""


def question(file: SuiteFile) -> str:
    """The digest of what a suite asks, as its file spells it: all but the methods, with the content of its files.

    Args:
        file: Its paths are absolute, as :func:`bench.config.suite.read_suite` has them.
    """
    asked = {key: value for key, value in file.model_dump(mode="json").items() if key not in _FREE}
    sums = {path: content(Path(path)) for path in _files(file)}
    return digest_of({"kind": "question", **{key: _summed(v, sums) for key, v in asked.items()}})


def named(protocol: str) -> SuiteFile | None:
    """The shipped suite that asks the question of a name; ``None``: no suite of ours has it."""
    name = protocol.partition("@")[0]
    if name not in suite_names():
        return None
    shipped = read_suite(name)
    return shipped if shipped.protocol == protocol else None


def name_of(suite: str) -> str | None:
    """The protocol of a shipped suite; ``None``: it has no name, or is not shipped."""
    return read_suite(suite).protocol if suite in suite_names() else None


def followed(file: SuiteFile) -> str | None:
    """The protocol that a suite follows: the one that it claims, if what it asks is what that name stands for.

    A name that is none of ours is its author's, and is taken as it is.
    """
    claimed = file.protocol
    if claimed is None or claimed.partition("@")[0] not in suite_names():
        return claimed
    shipped = named(claimed)
    same = shipped is not None and question(shipped) == question(file)
    return claimed if same else None


def _files(file: SuiteFile) -> set[str]:
    """The files that decide what is asked: concepts and prompts."""
    sources: list[object] = [file.goals, file.utility.captions]
    for entry in file.attacks:
        if not isinstance(entry, str):
            for fields in entry.values():
                sources += [fields.get("goals"), fields]
    found = {file.concepts_file} if file.concepts_file else set()
    for source in sources:
        path = source.file if isinstance(source, PromptSource) else None
        if isinstance(source, Mapping):
            path = source.get("file")
        found |= {path} if isinstance(path, str) else set()
    return found


def _summed(value: JSON, sums: Mapping[str, str]) -> JSON:
    """The value with the sum of a file in place of its path."""
    match value:
        case str():
            return sums.get(value, value)
        case dict():
            return {key: _summed(each, sums) for key, each in value.items()}
        case list():
            return [_summed(each, sums) for each in value]
    return value
