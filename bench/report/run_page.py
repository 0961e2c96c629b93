"""The run's page: one HTML file with all that a report shows, which asks nothing of any server.

Sorting, choosing and hovering are the work of DataTables (in the package ``itables``) and Bokeh, whose
scripts are in the file once. Without JavaScript the same tables and pictures stand there plainly.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from bench.core.characters import visible
from bench.report.disagreements import Apart
from bench.report.gallery import Card
from bench.report.hover import bokeh_source, colours, figures
from bench.report.html_tables import (
    agreement_table,
    attack_table,
    flag_table,
    headline_table,
    measures_table,
    options,
    stages_table,
)
from bench.report.style import Status
from bench.report.template import html_template
from bench.tables.headline import goals_said, repeats_said
from bench.tables.worst import headline

__all__ = ["RunPage", "data_tables_source", "run_page"]

_CARDS = 48
"""Pictures that are shown at once."""


@dataclass(frozen=True, slots=True, eq=False)
class RunPage:
    """Everything that the page shows.

    Attributes:
        suite: Name of the suite.
        worst: Lines of :data:`~bench.tables.schema.WORST`.
        table: Lines of :data:`~bench.tables.schema.TABLE`.
        flags: Lines of :data:`~bench.tables.schema.FLAGS`.
        cards: The pictures.
        provenance: JSON: commit, command, warnings.
        status: Anything but ``final`` is said first.
        sweep: The threshold sweep as a PNG; none if empty.
        budget: The success against budget, likewise.
        measures: Lines of :data:`~bench.tables.schema.MEASURES`; ``None``: the section is left out.
        agreement: Lines of :data:`~bench.tables.schema.AGREEMENT`; ``None``: likewise.
        stages: Lines of :data:`~bench.tables.schema.STAGES`; ``None``: likewise.
        apart: Pictures on which two judges differ.
    """

    suite: str
    worst: pd.DataFrame
    table: pd.DataFrame
    flags: pd.DataFrame
    cards: Sequence[Card]
    provenance: Mapping[str, Any]
    status: Status = "final"
    sweep: bytes = b""
    budget: bytes = b""
    measures: pd.DataFrame | None = None
    agreement: pd.DataFrame | None = None
    stages: pd.DataFrame | None = None
    apart: Sequence[Apart] = ()


def run_page(shown: RunPage) -> str:
    """The page; the same content gives the same text."""
    about = shown.provenance
    script, css = data_tables_source()
    pooled = headline(shown.worst)
    return html_template("bench.report", "run_page.html.j2").render(
        suite=visible(shown.suite),
        status=shown.status,
        command=visible(str(about.get("command", "unknown"))),
        commit=str(about.get("commit", "unknown"))[:12],
        changed=bool(about.get("dirty")),
        protocol=visible(str(about.get("protocol", ""))),
        warnings=[visible(str(line)) for line in about.get("warnings", ())],
        judge=visible(str(pooled["judge"].iloc[0])) if len(pooled) else "none",
        goals=goals_said(shown.worst),
        repeats=repeats_said(shown.table),
        tables={
            "worst": headline_table(shown.worst),
            "attacks": attack_table(shown.table),
            "flags": flag_table(shown.flags),
        },
        colours=[(visible(name), colour) for name, colour in colours(pooled)],
        figures=figures(shown.worst),
        cards=shown.cards,
        measures=None if shown.measures is None else measures_table(shown.measures),
        agreement=None if shown.agreement is None else agreement_table(shown.agreement),
        stages=None if shown.stages is None else stages_table(shown.stages),
        apart=shown.apart,
        sweep=base64.b64encode(shown.sweep).decode(),
        budget=base64.b64encode(shown.budget).decode(),
        pictures_options=options(len(shown.cards), [1, 2, 3, 4], length=_CARDS),
        data_tables=script,
        data_tables_css=css,
        bokeh=bokeh_source(),
    )


@cache
def data_tables_source() -> tuple[str, str]:
    """DataTables as the package brings it: its module in base64, and its styles."""
    folder = files("itables") / "html"
    script = (folder / "dt_bundle.js").read_bytes()
    return base64.b64encode(script).decode(), (folder / "dt_bundle.css").read_text("utf-8")
