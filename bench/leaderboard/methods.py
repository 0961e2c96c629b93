"""The table of the methods, from their classes and from the papers' cards.

    python -m bench.leaderboard.methods

prints the table of docs/methods.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, cast

from bench.core.errors import UsageError
from bench.core.printing import print_or_refuse
from bench.interfaces import Erasure, registry
from bench.leaderboard.paper import PAPERS, paper_of
from bench.tables.text import markdown_table, markdown_text

__all__ = ["methods_to_markdown"]

_HEAD: Final = (
    "method", "what it does", "slot", "bypassed by, by construction", "presets", "published",
    "licence of the authors' code",
)  # fmt: skip
_NONE: Final = "–"


def methods_to_markdown(board: Path) -> str:
    """A row per method of this repository: controls first, then by name.

    Args:
        board: The folder of the leaderboard, which has the cards of the papers.

    Raises:
        UsageError: the folder has no cards, or one is not sound.
    """
    if not (board / PAPERS).is_dir():
        raise UsageError(f"expected a folder {board / PAPERS} of the papers' cards, got none")
    ours = {
        name: cast("type[Erasure]", plugin.cls)
        for name, plugin in registry.plugins("method").items()
        if plugin.source == "built in"
    }
    rows = [
        _row(ours[name], board) for name in sorted(ours, key=lambda n: (not ours[n].control, n))
    ]
    return markdown_table(_HEAD, rows, left=len(_HEAD))


def _row(method: type[Erasure], board: Path) -> list[str]:
    name = method.name
    section = "controls" if method.control else name
    said = (method.__doc__ or "").strip().splitlines()[0]
    published, licence = _card(board, name)
    return [
        f"[`{name}`](#{section})",
        markdown_text(said.removesuffix(".")),
        ", ".join(sorted(method.slots)) or _NONE,
        ", ".join(method.bypassed_by) or _NONE,
        ", ".join(f"`{preset}`" for preset in method.presets) or _NONE,
        published,
        licence,
    ]


def _card(board: Path, name: str) -> tuple[str, str]:
    """Where a method is published, and the licence; a method without an entry has no card yet."""
    if not (board / PAPERS / f"{name}.json").is_file():
        return _NONE, _NONE
    paper = paper_of(board, name, name)
    where = f"[{markdown_text(paper.venue)} {paper.year}]({paper.paper})" if paper.paper else _NONE
    return where, markdown_text(paper.licence) or _NONE


def main(arguments: list[str]) -> int:
    """Prints the table; the exit code."""
    board = Path(*arguments[:1] or ["results/leaderboard"])
    return print_or_refuse(lambda: methods_to_markdown(board))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
