"""The site: an index, one self-contained page per protocol, a page per entry. The same entries give the same bytes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.config.protocols import name_of
from bench.core.digest import write_atomic
from bench.core.errors import UsageError
from bench.leaderboard.chart import LOOKS, scatter
from bench.leaderboard.check import read_entry
from bench.leaderboard.cite import cite_board, cite_method
from bench.leaderboard.columns import (
    access_table,
    attack_table,
    board_table,
    cost_table,
    flag_table,
    published_table,
)
from bench.leaderboard.entry import Entry, Protocol
from bench.leaderboard.export import board_csv, board_latex
from bench.leaderboard.names import entry_files, file_name
from bench.leaderboard.pictures import grids_of
from bench.leaderboard.ranking import BAR, Row, rows_of
from bench.leaderboard.together import missing_controls
from bench.report.hover import bokeh_source
from bench.report.run_page import data_tables_source
from bench.report.template import html_template

__all__ = ["Built", "build_site"]

_PACKAGE: Final = "bench.leaderboard"
_MARK: Final = ".tvc-bench-site"
"""The file by which a folder is known to hold a site, so that a build replaces nothing else."""


@dataclass(frozen=True, slots=True)
class _Page:
    """A protocol with its rows.

    Attributes:
        protocol: What was asked.
        rows: In the order of the board.
    """

    protocol: Protocol
    rows: Sequence[Row]

    @property
    def folder(self) -> str:
        """The name of its page, and of the folder of its entries: no ``@``, which addresses escape."""
        return self.protocol.name.replace("@", "-")


@dataclass(frozen=True, slots=True)
class Built:
    """A site that was written.

    Attributes:
        index: Its first page.
        protocols: How many protocols it has.
        entries: How many entries.
        size: Bytes of all files.
    """

    index: Path
    protocols: int
    entries: int
    size: int


def build_site(board: Path, out: Path, *, bar: float = BAR) -> Built:
    """Writes the site of a leaderboard.

    Args:
        board: The folder of the leaderboard.
        out: Where the site goes: a folder that is empty, not there, or holds an earlier site.
        bar: The least share of the unedited model's accuracy that a ranked method keeps.

    Raises:
        UsageError: in one line: the bar is none, the folder holds something else, or an entry is not as it must be.
    """
    if not 0 <= bar <= 1:
        raise UsageError(f"--utility: expected a share from 0 to 1, got {bar}")
    pages = _pages(board, bar)
    files = {"index.html": _index(pages, bar).encode(), _MARK: b""}
    for page in pages:
        files |= _files(page, board, bar)
    _check_place(out)
    for name, data in files.items():
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, data)
    for path in sorted(out.rglob("*.html")):
        if path.relative_to(out).as_posix() not in files:  # of an entry that is gone
            path.unlink()
    return Built(
        index=out / "index.html",
        protocols=len(pages),
        entries=sum(len(page.rows) for page in pages),
        size=sum(map(len, files.values())),
    )


def _pages(board: Path, bar: float) -> list[_Page]:
    by: dict[str, list[Entry]] = {}
    for path in entry_files(board):
        entry = read_entry(path)
        by.setdefault(entry.protocol.name, []).append(entry)
    if not by:
        raise UsageError(f"{board}: expected entries, got none; add a run with `leaderboard add`")
    pages = []
    for name, entries in sorted(by.items()):
        if missing := missing_controls({file_name(entry.method.name) for entry in entries}):
            raise UsageError(
                f"{board}: {name}: expected an entry of the control {missing[0]}, got none; add a whole run"
            )
        pages.append(_Page(entries[0].protocol, rows_of(entries, bar=bar)))
    return pages


def _files(page: _Page, board: Path, bar: float) -> dict[str, bytes]:
    """The files of a protocol by name."""
    table = board_csv(page.rows, page.protocol)
    latex = board_latex(page.rows, page.protocol, bar=bar).encode()
    entries = [row.entry for row in page.rows]
    script, css = data_tables_source()
    shown = html_template(_PACKAGE, "protocol.html.j2").render(
        protocol=page.protocol,
        named=name_of(page.protocol.suite),
        board=board_table(page.rows, page.folder),
        rows=page.rows,
        bar=bar,
        front=[row.name for row in page.rows if row.front],
        doubts=[row for row in page.rows if row.entry.unreliable],
        runs=_runs(entries),
        looks=LOOKS,
        figure=scatter(page.rows),
        grids=grids_of(entries, board.parent),
        cite=cite_board(page.protocol, sorted({entry.run.commit for entry in entries})),
        csv=_uri("text/csv", table),
        latex=_uri("application/x-tex", latex),
        stem=page.folder,
        data_tables=script,
        data_tables_css=css,
        bokeh=bokeh_source(),
    )
    files = {
        f"{page.folder}.html": shown.encode(),
        f"{page.folder}.csv": table,
        f"{page.folder}.tex": latex,
    }
    for row in page.rows:
        files[f"{page.folder}/{file_name(row.name)}.html"] = _entry(row, page, bar).encode()
    return files


def _entry(row: Row, page: _Page, bar: float) -> str:
    entry = row.entry
    return html_template(_PACKAGE, "entry.html.j2").render(
        row=row,
        entry=entry,
        bar=bar,
        up=f"../{page.folder}.html",
        tables={
            "access": access_table(entry),
            "costs": cost_table(entry),
            "attacks": attack_table(entry),
            "flags": flag_table(entry),
            "reported": published_table("reported", entry.reported),
            "external": published_table("external", entry.external),
        },
        cite=cite_method(entry),
        cite_board=cite_board(entry.protocol, [entry.run.commit]),
    )


def _index(pages: Sequence[_Page], bar: float) -> str:
    return html_template(_PACKAGE, "index.html.j2").render(
        bar=bar,
        pages=[
            {
                "to": f"{page.folder}.html",
                "protocol": page.protocol,
                "methods": sum(row.standing != "control" for row in page.rows),
                "ranked": sum(row.standing == "ranked" for row in page.rows),
                "first": [row for row in page.rows if row.best == 1],
            }
            for page in pages
        ],
    )


def _runs(entries: Sequence[Entry]) -> list[Any]:
    """The runs behind entries, each once."""
    return list({entry.run.folder: entry.run for entry in entries}.values())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(data).decode()}"


def _check_place(out: Path) -> None:
    """Refuses a folder that holds something else than a site."""
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise UsageError(
            f"--out {out}: expected an empty folder or an earlier site; choose another"
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: expected a folder, got a file; choose another")
