"""A report's page in Markdown: the template beside this file, filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.core.characters import visible
from bench.report.place import title
from bench.report.style import Status
from bench.report.template import template
from bench.tables.agreement import agreement_to_markdown
from bench.tables.costs import costs_to_markdown
from bench.tables.flags_said import flags_to_markdown
from bench.tables.headline import goals_said, repeats_said, worst_to_markdown
from bench.tables.measures import measures_to_markdown
from bench.tables.stages import stages_to_markdown
from bench.tables.tables import ALL
from bench.tables.text import attacks_to_markdown, to_markdown
from bench.tables.worst import headline

__all__ = ["Contents", "page"]


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """Everything that a page shows.

    Attributes:
        suite: Name of the suite.
        worst: Lines of :data:`~bench.tables.schema.WORST`.
        table: Lines of :data:`~bench.tables.schema.TABLE`.
        flags: Lines of :data:`~bench.tables.schema.FLAGS`.
        edits: Rows of :data:`~bench.tables.schema.EDITS`.
        grids: (concept, file) of each grid.
        provenance: JSON: commit, command, versions, warnings.
        status: Anything but ``final`` is said first.
        transfer: Whether there is a transfer matrix.
        candidates: The section on published candidates, in Markdown; empty: none.
        cells: Rows of :data:`~bench.tables.schema.CELLS`; ``None``: the section is left out.
        measures: Lines of :data:`~bench.tables.schema.MEASURES`; ``None``: the section is left out.
        agreement: Lines of :data:`~bench.tables.schema.AGREEMENT`; ``None``: likewise.
        stages: Lines of :data:`~bench.tables.schema.STAGES`; ``None``: likewise.
        budget: Whether there is a figure of success against budget.
    """

    suite: str
    worst: pd.DataFrame
    table: pd.DataFrame
    flags: pd.DataFrame
    edits: pd.DataFrame
    grids: Sequence[tuple[str, str]]
    provenance: Mapping[str, Any]
    status: Status = "final"
    transfer: bool = False
    candidates: str = ""
    cells: pd.DataFrame | None = None
    measures: pd.DataFrame | None = None
    agreement: pd.DataFrame | None = None
    stages: pd.DataFrame | None = None
    budget: bool = False


def page(shown: Contents) -> str:
    """The page of a report, in Markdown."""
    about, table = shown.provenance, shown.table
    # Pooled lines of the judge of record hold each image once.
    record = table[(table["concept"] == ALL) & (table["judge"] == next(iter(table["judge"]), ""))]
    return template("bench.report", "page.md.j2").render(
        title=title(shown.suite),
        status=shown.status,
        command=_on_one_line(str(about.get("command", "unknown"))),
        commit=str(about.get("commit", "unknown")),
        changed=bool(about.get("dirty")),
        protocol=_on_one_line(str(about.get("protocol", ""))),
        warnings=list(about.get("warnings", ())),
        worst=worst_to_markdown(headline(shown.worst)),
        goals=goals_said(shown.worst),
        repeats=repeats_said(table),
        table=to_markdown(table),
        attacks=attacks_to_markdown(table),
        measures="" if shown.measures is None else measures_to_markdown(shown.measures),
        agreement="" if shown.agreement is None else agreement_to_markdown(shown.agreement),
        stages="" if shown.stages is None else stages_to_markdown(shown.stages),
        budget=shown.budget,
        flags=flags_to_markdown(shown.flags, list(table["method"].unique())),
        grids=shown.grids,
        costs=costs_to_markdown(table, shown.edits),
        lost=int((record["errors"] + record["abstained"]).sum()),
        attempted=int(record["attempted"].sum()),
        errors=list(about.get("errors", ())),
        transfer=shown.transfer,
        candidates=shown.candidates,
        peaks=None if shown.cells is None else _peaks(shown.cells),
    )


def _on_one_line(command: str) -> str:
    """A command as it can stand in backticks."""
    return " ".join(visible(command).replace("`", "'").split())


def _peaks(cells: pd.DataFrame) -> str:
    """The largest peak of memory of each kind of cell; empty where none was measured."""
    most = cells.groupby("kind", sort=False)["peak_memory_mb"].max().dropna()
    return ", ".join(f"{kind} {peak:.0f} MiB" for kind, peak in most.items())
