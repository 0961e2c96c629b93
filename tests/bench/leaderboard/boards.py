"""A leaderboard of the committed run in a folder of its own, for tests to tamper with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.digest import file_sha256

__all__ = ["RESULTS", "UCE", "Tree", "planted"]

RESULTS = Path(__file__).parents[3] / "results"
UCE = "uce_repo_2023"
_UNREAD = ("*.pdf", "scatter.png", "sweep.*", "index.html", "*.md", "table.tex")


@dataclass(frozen=True)
class Tree:
    """A copy of the board and of its run.

    Attributes:
        results: The folder that holds both.
        protocol: The name of the protocol.
    """

    results: Path
    protocol: str

    @property
    def board(self) -> Path:
        """The folder of the leaderboard."""
        return self.results / "leaderboard"

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.results / "mini-quick"

    def entry(self, name: str = UCE) -> Path:
        """The file of an entry."""
        return self.board / "entries" / self.protocol / f"{name}.json"

    def change(self, change: Callable[[Any], Any], name: str = UCE) -> Path:
        """Changes an entry and writes it as `leaderboard add` would."""
        path = self.entry(name)
        value = json.loads(path.read_text(encoding="utf-8"))
        changed = change(value)
        value = value if changed is None else changed
        write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
        return path

    def replace(self, name: str, data: bytes) -> None:
        """Replaces a file of the run, and its digest in the entry: a tamperer who knows of digests."""
        write(self.run / name, data)
        self.change(lambda e: e["run"]["files"].update({name: file_sha256(self.run / name)}))


def write(path: Path, data: str | bytes) -> None:
    """Writes a file of its own: the old one may be a link to what others read."""
    path.unlink(missing_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def planted(into: Path, source: Path = RESULTS) -> Tree:
    """A copy of the board of mini-quick and of its run; files are linked where that can be."""
    unread = shutil.ignore_patterns(*_UNREAD)
    for name in ("leaderboard", "mini-quick"):
        shutil.copytree(source / name, into / name, ignore=unread, copy_function=_linked)
    for other in (into / "leaderboard" / "entries").iterdir():  # of runs that are not copied
        if not other.name.startswith("mini-quick@"):
            shutil.rmtree(other)
    _linked(source / "mini-quick" / "README.md", into / "mini-quick" / "README.md")
    return Tree(into, next((into / "leaderboard" / "entries").glob("mini-quick@*")).name)


def _linked(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another filesystem
        shutil.copyfile(source, target)
