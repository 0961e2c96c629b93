"""A path as a user wrote it, with his home folder filled in."""

from __future__ import annotations

from pathlib import Path

from bench.errors import UsageError, shown

__all__ = ["expanded", "is_folder"]


def expanded(text: str | Path) -> Path:
    """The path, ``~`` filled in.

    Raises:
        UsageError: it names the home of nobody.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"expected a path, got {shown(str(text))}: {error}") from error


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder; not where the name cannot be one."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False
