"""The provenance of a result: commit, versions, machine."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.digest import canonical_json
from bench.core.lazy import torch

if TYPE_CHECKING:
    from bench.model.text_to_image import TextToImage

__all__ = ["Origins", "commit", "provenance"]

_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "nudenet",
    "safetensors",
    "numpy",
    "pandas",
)
_ROOT = Path(__file__).resolve().parents[2]


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *words],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@cache
def commit() -> dict[str, Any]:
    """The project's commit, and whether files of the code were changed since."""
    head = _git("rev-parse", "HEAD")
    dirty = _git(
        "status", "--porcelain", "--", "bench", "methods", "attacks", "tvc", "pyproject.toml"
    )
    return {"commit": head or "unknown", "dirty": bool(dirty)}


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return {"python": platform.python_version(), **found}


def provenance(base: TextToImage) -> dict[str, Any]:
    """JSON: commit, versions, device, precision, threads, kernels."""
    device = base.backbone.device
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
    return {
        **commit(),
        "versions": _versions(),
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "compiled": base.backbone.compiled,
        "kernels": base.backbone.kernels.as_json(),
        "dtype": str(base.backbone.dtype).removeprefix("torch."),
        "base": base.backbone.digest,
    }


class Origins:
    """The commits and machines that computed a report's cells, by their records: a later report knows them too."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Any]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Counts a cell; one that says nothing of where it is from counts for nothing."""
        about, check = record.get("provenance"), record.get("self_check")
        if not isinstance(about, Mapping):
            return
        empty = {**about, "cells": 0, "self_checks": []}
        origin = self._found.setdefault(canonical_json(dict(about)), empty)
        origin["cells"] += 1
        # A run that samples nothing has not looked, and neither has one of before looks were kept.
        if check is not None and check not in origin["self_checks"]:
            origin["self_checks"].append(check)

    def as_json(self) -> list[dict[str, Any]]:
        """Each commit, machine and set of versions once, in the order of the plan.

        Each has the number of its ``cells``, and what the looks at the base before them saw.
        """
        return [dict(origin) for origin in self._found.values()]
