"""How an entry and a board are cited: BibTeX that names the protocol, the commit and the rows."""

from __future__ import annotations

import re
from typing import Final

from bench.leaderboard.entry import Entry, Protocol
from bench.tables.text import latex_text, slug

__all__ = ["cite_board", "cite_method"]

_WORD: Final = re.compile(r"\w+")


def cite_board(protocol: Protocol, commits: list[str]) -> str:
    """The BibTeX of a protocol's page.

    Args:
        protocol: What was asked.
        commits: Of the runs on the page.
    """
    said = ", ".join(commit[:12] for commit in commits)
    return (
        "@misc{tvcbench_" + slug(protocol.name) + ",\n"
        "  title = {tvc-bench: adversarial robustness of concept erasure, protocol "
        + latex_text(protocol.name)
        + "},\n"
        "  author = {{The tvc-bench authors}},\n"
        "  note = {Runs at commits " + said + "; base " + protocol.base[:12] + "},\n"
        "}\n"
    )


def cite_method(entry: Entry) -> str:
    """The BibTeX of a method's paper; nothing for what has no paper."""
    paper = entry.method.paper
    if not paper.authors:
        return ""
    last = _WORD.findall(paper.authors[0].split()[-1]) or ["anonymous"]
    key = slug(f"{last[-1]}{paper.year}{entry.method.name.partition('[')[0]}")
    fields = {
        "title": paper.title,
        "author": " and ".join(paper.authors),
        "booktitle": paper.venue,
        "year": str(paper.year),
        "url": paper.paper,
    }
    lines = "".join(
        f"  {name} = {{{value if name == 'url' else latex_text(value)}}},\n"
        for name, value in fields.items()
        if value
    )
    kind = "misc" if paper.venue == "arXiv" else "inproceedings"
    return f"@{kind}{{{key},\n{lines}}}\n"
