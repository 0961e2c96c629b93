"""The files of a hub repository that are loaded, and no others: a repository holds each network many times over."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path
from typing import Final

from bench.core.json_files import read_object
from bench.model.families.family import Family
from bench.model.pipeline.index import check_index
from bench.model.pipeline.tokenizer import MERGES, SETTINGS, VOCABULARY, WHOLE
from bench.model.pipeline.weights import is_there, next_names

__all__ = ["HUB_ID", "download", "fetch"]

HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}")
_INDEX = "model_index.json"


def fetch(source: str, commit: str, names: Set[str], ignored: Set[str] = frozenset()) -> Path:
    """The folder of a repository in the hub's cache, with what it has of these files.

    Args:
        source: Owner and name.
        commit: Of the repository.
        names: Names or patterns, whose ``*`` stands for ``/`` too.
        ignored: Likewise of files that are not wanted.

    Raises:
        Exception: whatever the hub's client raises: its kinds changed with each version.
    """
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            source,
            revision=commit,
            allow_patterns=sorted(names),
            ignore_patterns=sorted(ignored) or None,
        )
    )


def download(source: str, commit: str) -> Path:
    """The folder in the hub's cache, with the files that are used.

    It asks in rounds, for what comes next depends on what is there. A copy in half precision is
    asked for only where there is no plain one, and a vocabulary only where there is no whole
    tokenizer.

    Args:
        source: Owner and name.
        commit: Of the repository.

    Raises:
        UsageError: no family handles such a pipeline, or a file that names others cannot be read.
        Exception: whatever the hub's client raises: its kinds changed with each version.
    """
    folder, asked = fetch(source, commit, {_INDEX}), {_INDEX}
    if not is_there(folder / _INDEX):
        return folder  # inspection says so
    family, _ = check_index(read_object(folder / _INDEX), folder / _INDEX)
    while names := _next(folder, family, asked):
        folder = fetch(source, commit, names)
        asked |= names
    return folder


def _next(folder: Path, family: type[Family], asked: Set[str]) -> Set[str]:
    """Names to ask for next; the folder holds what there is of those that were asked for."""
    names = {"scheduler/scheduler_config.json"}
    names |= {f"{part}/config.json" for part in family.stems}
    for part in family.tokenizers:
        whole = f"{part}/{WHOLE}"
        names |= {whole, *(f"{part}/{name}" for name in SETTINGS)}
        if whole in asked and not is_there(folder / whole):
            names |= {f"{part}/{VOCABULARY}", f"{part}/{MERGES}"}
    for part, stem in family.stems.items():
        mine = {name.removeprefix(f"{part}/") for name in asked}
        names |= {f"{part}/{name}" for name in next_names(folder / part, stem, mine)}
    return names - asked
