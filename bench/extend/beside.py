"""Reads what a published report has beside the rows of a leaderboard: times, distances, curves and pictures.

A file may be anybody's. What is not as a report writes it is refused before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.core.errors import UsageError, in_one_line, shown
from bench.core.files import regular
from bench.core.weight_files import sound
from bench.extend.cards import cards_in
from bench.leaderboard.published_run import PublishedRun, read_distances
from bench.report.gallery import Card
from bench.report.place import RUN_PAGE
from bench.report.taken import Taken
from bench.run.cells import Cell, ComparedCell
from bench.run.plan import Plan
from bench.tables.frames import Schema, SchemaError, conform, read_table
from bench.tables.schema import BUDGET, CELLS, DISTANCES
from bench.tables.spreadsheet import from_cell
from bench.tables.text import slug

__all__ = ["beside", "cells_of", "distances_of"]

_KINDS = ("states", "latents")


def beside(run: PublishedRun, rest: Plan) -> Taken:
    """Returns finds, curves and grids of a report.

    Args:
        run: Cut to the lines that are taken.
        rest: What is left to compute: curves pool all lines of a method, so those of its methods stay away.

    Raises:
        UsageError: a file is not as a report writes it.
    """
    tensors, looks = run.folder / "candidates.safetensors", run.folder / "budget.csv"
    _check_names(run, tensors)
    return Taken(
        candidates=run.candidates,
        changing=_changing(run.trials),
        tensors=tensors if tensors.name in run.files else None,
        looks=_looks(looks, run, rest) if looks.exists() else BUDGET.empty(),
        grids=tuple(_grids(run)),
        cards=tuple(_cards(run)),
    )


def cells_of(run: PublishedRun) -> pd.DataFrame:
    """Returns the rows of ``cells.csv``, which are read as text, with their types.

    Raises:
        UsageError: a value is not of its column.
    """
    return _typed(run.cells, CELLS, run.folder / "cells.csv")


def distances_of(run: PublishedRun, cells: Sequence[Cell]) -> pd.DataFrame:
    """Returns what metrics of sets say of the lines that are taken.

    Raises:
        UsageError: the report does not have all of it.
    """
    wanted = {(c.parents["sample"], c.by): c for c in cells if isinstance(c, ComparedCell)}
    if not wanted:
        return DISTANCES.empty()
    rows = read_distances(run.folder)
    keys = list(zip(rows["utility_digest"], rows["metric"], strict=True))
    for key, cell in wanted.items():
        if key not in keys:
            raise UsageError(
                f"{run.folder / 'distances.parquet'}: expected rows of {cell.title}, got none; make the report again"
            )
    return rows[[key in wanted for key in keys]].reset_index(drop=True)


def _changing(trials: pd.DataFrame) -> int:
    mine = trials[(trials["access"] == "weights") & ~trials["control"]]
    return len(mine.drop_duplicates(["attack_digest", "candidate"]))


def _looks(path: Path, run: PublishedRun, rest: Plan) -> pd.DataFrame:
    """The curves of the methods of which no line is computed."""
    computed = {cell.method_label for cell in rest.cells}
    try:
        rows = read_table(regular(path))
        mine = rows[rows["view"] == "own"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: expected a table: {in_one_line(error)}") from error
    typed = _typed(mine, BUDGET, path)
    known = set(run.trials["method"]) - computed
    return typed[typed["method"].isin(known)].reset_index(drop=True)


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


def _check_names(run: PublishedRun, tensors: Path) -> None:
    """Refuses lines of candidates whose tensors are not their own, or are not in the file."""
    there = sound(tensors) if tensors.name in run.files else None
    for line in run.candidates:
        for kind in _KINDS:
            name = line.get(kind)
            begins = f"{kind}/{line['attack_digest']}/"
            own = name is None or (isinstance(name, str) and name.startswith(begins))
            if not own or (name is not None and there is not None and name not in there):
                raise UsageError(
                    f"{run.folder / 'candidates.jsonl'}: expected {kind} of {tensors.name}, {begins}<number>, "
                    f"got {shown(name)}; make the report again"
                )


def _cards(run: PublishedRun) -> Iterator[Card]:
    page = run.folder / RUN_PAGE
    lines = set(zip(run.trials["method"], run.trials["concept"], strict=True))
    for card in cards_in(page) if page.exists() else ():
        if (card.method, card.concept) in lines:
            yield card


def _grids(run: PublishedRun) -> Iterator[tuple[str, Path]]:
    """The report's own grids, and those that it took over itself."""
    for concept in run.trials["concept"].unique().tolist():
        name = f"grid-{slug(concept)}"
        for path in sorted(run.folder.glob(f"{name}*.png")):
            if path.stem == name or path.stem.startswith(f"{name}."):
                yield concept, path
