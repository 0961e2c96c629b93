"""Takes lines of a plan from a published report, so that a run computes the others alone.

A line is a method on a concept in one repeat. It is taken where the report has every cell of it. A cell's digest
covers all that its numbers depend on, so they are those that a run would compute. Its rows are held to the
plan as a leaderboard holds them. A report has no images but those of its grids and its page, which are taken as
they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.errors import UsageError, shown
from bench.extend.beside import beside, cells_of, distances_of
from bench.leaderboard.final import check_final
from bench.leaderboard.found import check_candidates, is_published
from bench.leaderboard.held import check_rows
from bench.leaderboard.published_run import Line, PublishedRun, read_run
from bench.report.taken import Taken
from bench.run.cells import Cell, JudgedCell, OfAttack, ScoreCell
from bench.run.plan import Plan
from bench.run.results import Results
from bench.tables.spreadsheet import from_cell

__all__ = ["Extension", "extension"]


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

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The commits that computed the lines, each with its lines, for ``provenance.json``."""
        by: dict[str, list[Line]] = {}
        for line, commit in sorted(self.run.commits().items()):
            by.setdefault(commit, []).append(line)
        rows, about = self.run.files["trials.parquet"], self.run.provenance
        earlier = {str(part["commit"]): part.get("origins") for part in about.get("parts", ())}
        earlier[str(about["commit"])] = about.get("origins")
        return [
            {"commit": commit, "lines": lines, "taken_from": rows}
            | ({"origins": origins} if (origins := earlier.get(commit)) else {})
            for commit, lines in by.items()
        ]

    @property
    def remarks(self) -> list[str]:
        """A line per commit for the reader of the new report."""
        computed = {cell.method_label for cell in self.rest.cells}
        found = []
        for part in self.parts:
            methods = dict.fromkeys(method for method, _, _ in part["lines"])
            said = [f"{m} (in part)" if m in computed else m for m in methods]
            found.append(
                f"computed at commit {part['commit'][:12]}, and taken over: {', '.join(said)}"
            )
        return found

    @property
    def told(self) -> str:
        """How much is taken, for the terminal."""
        lines, cells = len(self.run.commits()), len(self.rest.cells)
        return f"{lines} lines taken from {self.run.folder}; {cells} cells are asked of this run"

    def keep_apart(self, folder: Path) -> None:
        """Refuses that a draft or a part takes the place of the report: its lines are in no store.

        Raises:
            UsageError: it would.
        """
        if folder.resolve() == self.run.folder.resolve():
            raise UsageError(
                f"{folder}: expected a whole and final result in place of the report that it extends, and it is none; "
                "name another folder with --out"
            )

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
    listed = {row["digest"]: _said(row) for row in run.cells.to_dict("records")}
    lacking = {line: _lacking(cells, listed, plan) for line, cells in lines.items()}
    taken = [cell for line, cells in lines.items() if not lacking[line] for cell in cells]
    if not taken:
        raise UsageError(f"--extend: {folder}: {_nearest(lacking.values(), listed, plan)}")
    digests = {cell.digest for cell in taken}
    needed = {digest for cell in taken for digest in cell.parents.values()}
    cells = [c for c in plan.cells if c.digest in digests or c.digest in needed]
    cut = _cut(run, cells)
    held = plan.cut_to(cells)
    check_rows(cut, held)
    check_candidates(cut, held)
    rest = plan.cut_to([*_rest(plan, digests)])
    return Extension(
        plan, cut, cells_of(cut), distances_of(cut, cells), beside(run, cut, plan, rest), rest
    )


def _lines(plan: Plan) -> dict[Line, list[Cell]]:
    """The cells of each line; a line with transfers is none, as they need the finds of others."""
    lines: dict[Line, list[Cell]] = {}
    moved: set[Line] = set()
    for cell in plan.cells:
        if not cell.method_label:  # a reference
            continue
        line = (cell.method_label, cell.concept.text, cell.repeat)
        lines.setdefault(line, []).append(cell)
        if cell.source_label not in ("", cell.method_label):
            moved.add(line)
    return {line: cells for line, cells in lines.items() if line not in moved}


def _said(row: Mapping[Any, Any]) -> tuple[str, ...]:
    names = ("kind", "method", "concept", "attack", "scored_by")
    return tuple(from_cell(str(row[name])) for name in names)


def _lacking(
    cells: Sequence[Cell], listed: Mapping[str, tuple[str, ...]], plan: Plan
) -> list[Cell]:
    """The cells that a report does not list, or under other names."""
    found = []
    for cell in cells:
        of = cell.trial if isinstance(cell, JudgedCell) else cell
        attack = plan.attack_name(of.attack) if isinstance(of, OfAttack) else ""
        by = cell.by if isinstance(cell, ScoreCell) else ""
        said = (cell.kind, cell.method_label, cell.concept.text, attack, by)
        if listed.get(cell.digest) != said:
            found.append(cell)
    return found


def _nearest(
    lacking: Collection[list[Cell]], listed: Mapping[str, tuple[str, ...]], plan: Plan
) -> str:
    """Says that a report has no line of a plan, and what the line lacks that is nearest to one."""
    if not lacking:
        return f"expected lines of {plan.suite.name}, and all of them need the finds of others; leave it out"
    first = min(lacking, key=len)[0]
    how = "has it under another name" if first.digest in listed else "does not have it"
    return (
        f"expected a line of {plan.suite.name} with all its cells, such as {shown(first.title)}, and the report {how}; "
        "leave it out"
    )


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
    """The report without the rows of other cells, under the thresholds of the plan."""
    scored = {(_sampled(c), c.by) for c in cells if isinstance(c, ScoreCell)}
    digests = {cell.digest for cell in cells}
    judged = [c for c in cells if isinstance(c, JudgedCell)]
    attacks = {c.trial.parents["attack"] for c in judged if is_published(c.trial.attack)}
    return replace(
        run,
        trials=_judged_again(_of(run.trials, ["trial_digest", "judge"], scored), judged),
        utility=_of(run.utility, ["utility_digest", "metric"], scored),
        edits=run.edits[run.edits["edit_digest"].isin(digests)].reset_index(drop=True),
        cells=run.cells[run.cells["digest"].isin(digests)].reset_index(drop=True),
        candidates=tuple(c for c in run.candidates if str(c.get("attack_digest")) in attacks),
    )


def _judged_again(trials: pd.DataFrame, judged: Sequence[JudgedCell]) -> pd.DataFrame:
    """The rows under the thresholds of a plan, which no digest knows."""
    thresholds = {cell.by: cell.judge.threshold for cell in judged}
    return trials.assign(
        threshold=trials["judge"].map(thresholds).astype(trials["threshold"].dtype)
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
