"""A suite, asked of another base than its own: another question, under another name."""

from __future__ import annotations

import re
from pathlib import Path

from bench.config.suite_file import SuiteFile
from bench.core.errors import UsageError, shown
from bench.core.files import expanded, is_folder
from bench.core.shipped import MINIATURES
from bench.model.pipeline.inspect import looks_local

__all__ = ["on_base"]

_SUITE, _BASE = 60, 36
"""Letters of both names that are kept: the name of a suite has at most 100."""


def on_base(file: SuiteFile, base: str) -> SuiteFile:
    """The suite on another base: its name ends in ``-on-`` and the base's, and it is no version of a protocol.

    Args:
        file: The suite.
        base: A miniature, a folder seen from where the command runs, or a hub id with its commit,
            ``ID@COMMIT``.

    Raises:
        UsageError: the base is empty, or a hub id without its commit.
    """
    if not base.strip():
        raise UsageError(
            "expected a miniature, a folder or ID@COMMIT, got an empty text", at=("base",)
        )
    source, revision = base, None
    path = expanded(base)
    if base not in MINIATURES and (looks_local(base) or is_folder(path)):
        source = str(path.absolute())
    elif base not in MINIATURES:
        source, _, revision = base.rpartition("@")
        if not source or not revision:
            raise UsageError(
                "expected a miniature, a folder that is there, or a hub id with its commit (ID@COMMIT), "
                f"got {shown(base)}",
                at=("base",),
            )
    if (source, revision) == (file.base, file.revision):
        return file
    called = re.sub(r"[^a-z0-9]+", "-", Path(source).name.lower()).strip("-") or "base"
    name = f"{file.name[:_SUITE]}-on-{called[:_BASE]}"
    changes = {"name": name, "base": source, "revision": revision, "protocol": None}
    return SuiteFile.of({**file.model_dump(), **changes})
