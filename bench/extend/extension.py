"""Takes lines of a plan from a published report, so that a run computes the others alone.

A line is a method on a concept in one repeat. It is taken where the report has every cell of it. A cell's digest
covers all that its numbers depend on, so they are those that a run would compute. Its rows are held to the
plan as a leaderboard holds them. A report has no images but those of its grids and its page, which are taken as
they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.errors import UsageError
from bench.extend.beside import beside, cells_of, distances_of
from bench.leaderboard.final import check_final
from bench.leaderboard.found import check_candidates
from bench.leaderboard.held import check_rows
from bench.leaderboard.published_run import PublishedRun, read_run
from bench.report.taken import Taken
from bench.run.cells import Cell, JudgedCell, ScoreCell
from bench.run.plan import Plan
from bench.run.results import Results
from bench.tables.spreadsheet import from_cell

__all__ = ["Extension", "extension"]

_Line = tuple[str, str, int]


@dataclass(frozen=True)
class Extension:
    """The lines of a plan that a published report has.

    Attributes:
        plan: The whole.
        run: The report, cut to the lines that are taken.
        cells: Its rows of :data:`~bench.tables.schema.CELLS`, cut likewise.
        distances: Its rows of :data:`~bench.tables.schema.DISTANCES`, likewise.
        taken: What the new report takes over beside rows.
        rest: The plan without them: what is left to compute.
    """

    plan: Plan
    run: PublishedRun
    cells: pd.DataFrame
    distances: pd.DataFrame
    taken: Taken
    rest: Plan

    @cached_property
    def parts(self) -> list[dict[str, Any]]:
        """The commits that computed the lines, each with its methods, for ``provenance.json``.

        A method that is computed on other concepts now is named as one that is taken in part.
        """
        mixed = {cell.method_label for cell in self.rest.cells}
        by: dict[str, dict[str, Any]] = {}
        for method in sorted(self.run.trials["method"].unique().tolist()):
            commit = self.run.commit_of(method)
            part = by.setdefault(commit, {"commit": commit, "methods": [], "in_part": []})
            part["in_part" if method in mixed else "methods"].append(method)
        return list(by.values())

    @property
    def remarks(self) -> list[str]:
        """A line per commit for the reader of the new report."""
        return [
            f"taken from a report made at commit {part['commit'][:12]}, with its sample grids: "
            f"{', '.join([*part['methods'], *(f'{name} (in part)' for name in part['in_part'])])}"
            for part in self.parts
        ]

    def joined(self, found: Results) -> Results:
        """The results of the rest together with the lines that are taken.

        Args:
            found: Of :attr:`rest`; it is changed.
        """
        cells = self.cells[~self.cells["digest"].isin(found.cells["digest"])]
        edits = self.run.edits[~self.run.edits["edit_digest"].isin(found.edits["edit_digest"])]
        found.trials = self._judges_first(_both(found.trials, self.run.trials))
        found.utility = _both(found.utility, self.run.utility)
        found.distances = _both(found.distances, self.distances)
        found.edits = _both(found.edits, edits)
        found.cells = _both(found.cells, cells)
        inside, total = found.seconds
        found.seconds = (
            inside + float(cells["model_seconds"].sum()),
            total + float(cells["seconds"].sum()),
        )
        return found

    def _judges_first(self, trials: pd.DataFrame) -> pd.DataFrame:
        """The rows with those of the judge of record before others: tables know it by its place."""
        labels = dict.fromkeys(cell.by for cell in self.plan.cells if isinstance(cell, JudgedCell))
        order = {label: place for place, label in enumerate(labels)}
        ranks = trials["judge"].map(order)
        return trials.loc[ranks.sort_values(kind="stable").index].reset_index(drop=True)


def extension(plan: Plan, folder: Path) -> Extension:
    """Finds the lines of a plan that a published report has.

    Args:
        plan: Of a suite. It may be another than the report's: what counts is that cells are the same.
        folder: Of the report.

    Raises:
        UsageError: it is no final report, it has no line of the plan, or its rows are not the plan's.
    """
    run = read_run(folder)
    check_final(run)
    lines = _lines(plan)
    listed = {
        row["digest"]: (row["kind"], from_cell(row["method"]), from_cell(row["concept"]))
        for row in run.cells.to_dict("records")
    }
    there = {line for line, cells in lines.items() if all(_is_listed(c, listed) for c in cells)}
    if not there:
        raise UsageError(
            f"--extend: expected a report with a line of {plan.suite.name}, got {folder}, which has none with the "
            "same base, sampler, attacks, goals and judges; leave it out"
        )
    taken = [cell for line in there for cell in lines[line]]
    digests = {cell.digest for cell in taken}
    needed = {digest for cell in taken for digest in cell.parents.values()}
    cells = tuple(c for c in plan.cells if c.digest in digests or c.digest in needed)
    cut = _cut(run, cells)
    held = replace(plan, cells=cells)
    check_rows(cut, held)
    check_candidates(cut, held)
    rest = replace(plan, cells=tuple(_rest(plan, digests)))
    return Extension(plan, cut, cells_of(cut), distances_of(cut, cells), beside(cut, rest), rest)


def _lines(plan: Plan) -> dict[_Line, list[Cell]]:
    """The cells of each line; a line with transfers is none, as they need the finds of others."""
    lines: dict[_Line, list[Cell]] = {}
    moved: set[_Line] = set()
    for cell in plan.cells:
        if not cell.method_label:  # a reference
            continue
        line = (cell.method_label, cell.concept.text, cell.repeat)
        lines.setdefault(line, []).append(cell)
        if cell.source_label not in ("", cell.method_label):
            moved.add(line)
    return {line: cells for line, cells in lines.items() if line not in moved}


def _is_listed(cell: Cell, listed: dict[str, tuple[str, str, str]]) -> bool:
    return listed.get(cell.digest) == (cell.kind, cell.method_label, cell.concept.text)


def _rest(plan: Plan, taken: set[str]) -> Iterator[Cell]:
    """The cells that are left to compute, and all that they need."""
    wanted: set[str] = set()
    for cell in reversed(plan.cells):  # parents come first in a plan
        if cell.digest not in taken and (cell.method_label or cell.digest in wanted):
            wanted.add(cell.digest)
        if cell.digest in wanted:
            wanted.update(cell.parents.values())
    return (cell for cell in plan.cells if cell.digest in wanted)


def _cut(run: PublishedRun, cells: Sequence[Cell]) -> PublishedRun:
    """The report without the rows of other cells."""
    scored = {(_sampled(c), c.by) for c in cells if isinstance(c, ScoreCell)}
    digests = {cell.digest for cell in cells}
    attacks = {c.trial.parents["attack"] for c in cells if isinstance(c, JudgedCell)}
    return replace(
        run,
        trials=_of(run.trials, ["trial_digest", "judge"], scored),
        utility=_of(run.utility, ["utility_digest", "metric"], scored),
        edits=run.edits[run.edits["edit_digest"].isin(digests)].reset_index(drop=True),
        cells=run.cells[run.cells["digest"].isin(digests)].reset_index(drop=True),
        candidates=tuple(line for line in run.candidates if line.get("attack_digest") in attacks),
    )


def _sampled(cell: ScoreCell) -> str:
    return cell.parents["sample"]


def _of(rows: pd.DataFrame, keys: list[str], wanted: set[tuple[str, str]]) -> pd.DataFrame:
    mine = pd.MultiIndex.from_frame(rows[keys]).isin(list(wanted))
    return rows[mine].reset_index(drop=True)


def _both(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Rows of the same schema together; a frame without rows has no types to keep."""
    kept = [frame for frame in (ours, theirs) if len(frame)]
    return pd.concat(kept, ignore_index=True) if kept else ours
