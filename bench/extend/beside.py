"""Reads what a published report has beside the rows of a leaderboard: times, distances, curves and pictures.

A file may be anybody's. What is not as a report writes it is refused before anything is computed. What is copied
is held in memory: files may change while a run computes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from PIL import Image

from bench.core.errors import UsageError, in_one_line, shown
from bench.core.files import bounded, regular
from bench.core.weight_files import sound
from bench.extend.cards import cards_in
from bench.leaderboard.published_run import PublishedRun, read_distances
from bench.leaderboard.same import check_same
from bench.report.gallery import Card
from bench.report.grid_names import earlier_name, grid_names
from bench.report.place import RUN_PAGE
from bench.report.taken import EarlierGrid, Taken
from bench.run.cells import Cell, ComparedCell, JudgedCell
from bench.run.plan import Plan
from bench.tables.frames import Schema, SchemaError, conform, read_table
from bench.tables.schema import BUDGET, CELLS, DISTANCES
from bench.tables.spreadsheet import from_cell

__all__ = ["beside", "cells_of", "distances_of"]

_KINDS: Final = ("states", "latents")
_MOST: Final = 2**24
"""Bytes of a table of curves, or of a file of tensors, at most."""


def beside(whole: PublishedRun, run: PublishedRun, plan: Plan, rest: Plan) -> Taken:
    """Returns finds, curves, grids and pictures of a report.

    Args:
        whole: The report.
        run: The same, cut to the lines that are taken.
        plan: What is asked for.
        rest: What is left to compute of it.

    Raises:
        UsageError: a file is not as a report writes it.
    """
    tensors, looks = run.folder / "candidates.safetensors", run.folder / "budget.csv"
    there = tensors.name in run.files
    _check_names(run, tensors if there else None)
    computed = {cell.method_label for cell in rest.cells}
    return Taken(
        candidates=run.candidates,
        changing=_changing(run.trials),
        tensors=bounded(tensors, _MOST) if there else None,
        looks=_looks(looks, whole, run, plan) if looks.exists() else BUDGET.empty(),
        unpooled=frozenset(set(run.trials["method"]) & computed),
        grids=tuple(_grids(whole, run, rest)),
        cards=tuple(_cards(run, plan)),
    )


def cells_of(run: PublishedRun) -> pd.DataFrame:
    """Returns the rows of ``cells.csv``, which are read as text, with their types.

    Raises:
        UsageError: a value is not of its column, or a time is none.
    """
    path = run.folder / "cells.csv"
    rows = _typed(run.cells, CELLS, path)
    known = rows.assign(reused_seconds=rows["reused_seconds"].fillna(0.0))
    times = known[["seconds", "model_seconds", "reused_seconds"]].to_numpy()
    if not (np.isfinite(times) & (times >= 0)).all():
        raise UsageError(f"{path}: expected seconds of 0 and more; make the report again")
    return rows


def distances_of(run: PublishedRun, cells: Sequence[Cell]) -> pd.DataFrame:
    """Returns what metrics of sets say of the lines that are taken.

    Raises:
        UsageError: the report does not have all of it, or it is not that of the cells.
    """
    wanted = {(c.parents["sample"], c.by): c for c in cells if isinstance(c, ComparedCell)}
    if not wanted:
        return DISTANCES.empty()
    path = run.folder / "distances.parquet"
    rows = read_distances(run.folder)
    of = dict(list(rows.groupby(["utility_digest", "metric"], sort=False)))
    found = []
    for key, cell in wanted.items():
        mine = of.get(key, rows.iloc[:0])
        if sorted(mine["column"]) != sorted(cell.metric.columns):
            raise UsageError(
                f"{path}: expected a row per value of {cell.title}, got {len(mine)}; make the report again"
            )
        edit = cell.utility.parents["edit"]
        said = {name: value for name, value in cell.said.items() if name in rows}
        check_same(mine, said | {"edit_digest": edit}, f"{path}: {cell.title}")
        found.append(mine)
    return pd.concat(found, ignore_index=True)


def _looks(path: Path, whole: PublishedRun, run: PublishedRun, plan: Plan) -> pd.DataFrame:
    """The curves that pool just the lines that are taken: of a method, all that the report has, and no more."""
    try:
        rows = read_table(io.BytesIO(bounded(path, _MOST)))
        rows = rows[rows["view"] == "own"]
    except (ValueError, KeyError) as error:
        raise UsageError(f"{path}: expected a table: {in_one_line(error)}") from error
    typed = _typed(rows, BUDGET, path)
    rates = typed[["share", "low", "high"]].to_numpy()
    spent = typed[["images", "steps"]].to_numpy()
    counts = typed["successes"].between(0, typed["n"])
    sane = (rates >= 0) & (rates <= 1)
    if not (counts.all() and sane.all() and not np.isinf(spent).any()):
        raise UsageError(f"{path}: expected shares of goals, got others; make the report again")
    taken = set(run.commits())
    asked = {(cell.method_label, cell.concept.text, cell.repeat) for cell in plan.cells}
    apart = (set(whole.commits()) | asked) - taken
    methods = {line[0] for line in taken} - {line[0] for line in apart}
    names = {plan.attack_name(c.trial.attack) for c in plan.cells if isinstance(c, JudgedCell)}
    mine = typed["method"].isin(methods) & typed["line"].isin(names)
    return typed[mine].reset_index(drop=True)


def _typed(rows: pd.DataFrame, schema: Schema, path: Path) -> pd.DataFrame:
    """Lines of a CSV with the types of a schema; a text that is missing is empty."""
    try:
        typed: dict[str, Any] = {
            column.name: rows[column.name].fillna("").astype(str).map(from_cell)
            if column.dtype == "str"
            else pd.to_numeric(rows[column.name])
            for column in schema.columns
        }
        return conform(pd.DataFrame(typed), schema)
    except (KeyError, ValueError, TypeError, SchemaError) as error:
        raise UsageError(f"{path}: expected rows of {schema.name}: {in_one_line(error)}") from error


def _check_names(run: PublishedRun, tensors: Path | None) -> None:
    """Refuses lines of candidates whose tensors are not their own, or are not in the file."""
    there = None if tensors is None else sound(tensors)
    for line in run.candidates:
        for kind in _KINDS:
            name = line.get(kind)
            begins = f"{kind}/{line['attack_digest']}/"
            own = name is None or (isinstance(name, str) and name.startswith(begins))
            if not own or (name is not None and there is not None and name not in there):
                raise UsageError(
                    f"{run.folder / 'candidates.jsonl'}: expected {kind} of candidates.safetensors, {begins}<number>, "
                    f"got {shown(name)}; make the report again"
                )


def _changing(trials: pd.DataFrame) -> int:
    mine = trials[(trials["access"] == "weights") & ~trials["control"]]
    return len(mine.drop_duplicates(["attack_digest", "candidate"]))


def _cards(run: PublishedRun, plan: Plan) -> Iterator[Card]:
    page = run.folder / RUN_PAGE
    record = next((c.by for c in plan.cells if isinstance(c, JudgedCell)), "")
    if page.exists():
        yield from cards_in(page, run.trials[run.trials["judge"] == record])


def _grids(whole: PublishedRun, run: PublishedRun, rest: Plan) -> Iterator[EarlierGrid]:
    """The grids of a report, but for those with a row that is computed anew: who reads it would be misled."""
    anew = {(cell.method_label, cell.concept.text) for cell in rest.cells}
    before = {line[:2] for line in whole.commits()}
    names: set[str] = set()
    for concept in run.trials["concept"].unique().tolist():
        if any(line in before for line in anew if line[1] == concept):
            continue
        for name in grid_names(run.files, concept):
            if name not in names:  # two concepts may share a name
                names.add(name)
                commit = str(whole.provenance["commit"])
                new = earlier_name(name, commit)
                yield EarlierGrid(concept, new.split(".")[1], new, _png(run.folder / name))


def _png(path: Path) -> bytes:
    """The bytes of a grid; a link is refused, since it may lead to what nobody wants to publish."""
    if path.is_symlink():
        raise UsageError(f"{path}: expected a picture, got a link; copy it there")
    data = regular(path).read_bytes()
    try:
        Image.open(io.BytesIO(data), formats=["PNG"]).verify()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: expected a picture: {in_one_line(error)}") from error
    return data
