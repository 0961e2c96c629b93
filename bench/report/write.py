"""Writes a suite's results: rows, table, plots, grids and a page that says what they are."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from bench.core import heap
from bench.core.digest import write_atomic
from bench.report.budget_plot import budget_plot
from bench.report.candidates import write_candidates
from bench.report.disagreements import disagreements
from bench.report.gallery import ImageKey, gallery
from bench.report.grid import Key, Picture, grid
from bench.report.grid_names import own_name
from bench.report.heat_map import heat_map
from bench.report.page import Contents, page
from bench.report.place import PAGE, RUN_PAGE, replacing
from bench.report.plots import Status, save, scatter
from bench.report.run_page import RunPage, run_page
from bench.report.sweep_plot import sweep_plot
from bench.report.taken import NOTHING, Taken
from bench.run.results import Found
from bench.tables.agreement import agreement
from bench.tables.budget import budget
from bench.tables.flags import flag
from bench.tables.headline import worst_to_markdown
from bench.tables.measures import measures
from bench.tables.own import without_transfers
from bench.tables.schema import CELLS, DISTANCES, EDITS, TRIALS, UTILITY, Schema, check, to_arrow
from bench.tables.spreadsheet import as_csv
from bench.tables.stages import stages
from bench.tables.sweep import sweep
from bench.tables.tables import BASE, FLOOR, summarise
from bench.tables.text import slug, to_latex, to_markdown
from bench.tables.transfer import matrix
from bench.tables.worst import worst_per_goal

__all__ = ["Report", "in_row_order", "write_report"]


class Report(NamedTuple):
    """The tables that were derived from the rows.

    Attributes:
        table: Lines of :data:`~bench.tables.schema.TABLE`.
        flags: Lines of :data:`~bench.tables.schema.FLAGS`.
        worst: Lines of :data:`~bench.tables.schema.WORST`.
    """

    table: pd.DataFrame
    flags: pd.DataFrame
    worst: pd.DataFrame


_KEYS = (
    *("judge", "method", "source", "concept", "repeat", "attack", "candidate", "draw", "label"),
    *("group", "prompt", "image_seed", "metric", "column", "against"),
    *("edit_digest", "attack_digest", "trial_digest", "utility_digest"),
)


def write_report(
    folder: Path,
    suite: str,
    *,
    trials: pd.DataFrame,
    utility: pd.DataFrame,
    edits: pd.DataFrame,
    pictures: Mapping[str, Mapping[Key, Sequence[Picture | None]]],
    scores: Mapping[str, Mapping[Key, Sequence[float]]],
    provenance: Mapping[str, Any],
    distances: pd.DataFrame | None = None,
    cells: pd.DataFrame | None = None,
    prompts: Mapping[str, Mapping[Key, Sequence[str]]] = MappingProxyType({}),
    images: Mapping[str, Mapping[Key, Sequence[ImageKey]]] = MappingProxyType({}),
    candidates: Sequence[Found] = (),
    curves: Sequence[Mapping[str, object]] = (),
    label_sets: Mapping[str, Sequence[str]] = MappingProxyType({}),
    taken: Taken = NOTHING,
    status: Status = "final",
) -> Report:
    """Writes everything under ``folder``, once it is whole; the same rows give the same bytes.

    Args:
        folder: Made if need be. It is empty or holds a report of the suite, which is replaced; files
            that no report writes stay in it.
        suite: Name of the suite.
        trials: Rows of :data:`~bench.tables.schema.TRIALS`.
        utility: Rows of :data:`~bench.tables.schema.UTILITY`.
        edits: Rows of :data:`~bench.tables.schema.EDITS`.
        pictures: concept -> (method, attack) -> pictures.
        scores: The same for their scores.
        prompts: The same for their prompts, shown below them.
        images: The same for the trial, candidate and draw of each, by which its row is found.
        provenance: JSON: commit, command, versions.
        distances: Rows of :data:`~bench.tables.schema.DISTANCES`: what metrics of sets say.
        cells: Rows of :data:`~bench.tables.schema.CELLS`: what the work took.
        candidates: What attacks found, to be published.
        curves: How far each search was after each look, with the columns :data:`bench.tables.budget.CURVES`.
        label_sets: Published sets of the judges' labels, for the threshold sweep.
        taken: Finds, curves and grids of lines whose rows are those of an earlier report.
        status: Anything but ``final`` is stamped on the page and the plot.

    Returns:
        The tables, and the flags that they raise.

    Raises:
        UsageError: the folder holds something else.
    """
    distances = DISTANCES.empty() if distances is None else distances
    trials, utility, edits, distances = (
        in_row_order(frame) for frame in (trials, utility, edits, distances)
    )
    table = summarise(trials, utility, edits=edits, suite=suite)
    worst = worst_per_goal(trials, table)
    flags = flag(table, without_transfers(trials), edits)
    report = Report(table, flags, worst)
    with replacing(folder, suite) as place:
        _write(
            place, suite, report, trials=trials, utility=utility, edits=edits, pictures=pictures,
            distances=distances, scores=scores, prompts=prompts, images=images, provenance=provenance, cells=cells,
            candidates=candidates, curves=curves, label_sets=label_sets, taken=taken, status=status,
        )  # fmt: skip
    return report


def _write(
    folder: Path,
    suite: str,
    report: Report,
    *,
    trials: pd.DataFrame,
    utility: pd.DataFrame,
    edits: pd.DataFrame,
    distances: pd.DataFrame,
    pictures: Mapping[str, Mapping[Key, Sequence[Picture | None]]],
    scores: Mapping[str, Mapping[Key, Sequence[float]]],
    prompts: Mapping[str, Mapping[Key, Sequence[str]]],
    images: Mapping[str, Mapping[Key, Sequence[ImageKey]]],
    provenance: Mapping[str, Any],
    cells: pd.DataFrame | None,
    candidates: Sequence[Found],
    curves: Sequence[Mapping[str, object]],
    label_sets: Mapping[str, Sequence[str]],
    taken: Taken,
    status: Status,
) -> None:
    """Writes the files of a report into an empty folder."""
    table, flags, worst = report
    for name, frame, schema in (
        ("trials", trials, TRIALS),
        ("utility", utility, UTILITY),
        ("edits", edits, EDITS),
    ):
        write_atomic(folder / f"{name}.parquet", _parquet(frame, schema))
    if len(distances):
        write_atomic(folder / "distances.parquet", _parquet(distances, DISTANCES))
    cost = measures(utility, distances, suite)
    write_atomic(folder / "measures.csv", as_csv(cost))
    alike = agreement(trials, suite)
    if len(alike):
        write_atomic(folder / "agreement.csv", as_csv(alike))
    write_atomic(folder / "worst.csv", as_csv(worst))
    write_atomic(folder / "worst.md", worst_to_markdown(worst).encode())
    write_atomic(folder / "table.csv", as_csv(table))
    write_atomic(folder / "flags.csv", as_csv(flags))
    write_atomic(folder / "table.md", to_markdown(table).encode())
    write_atomic(folder / "table.tex", to_latex(table).encode())
    heap.trim()
    _draw(scatter(worst, suite=suite, status=status), folder / "scatter", "png", "pdf")
    moved = matrix(trials)
    if len(moved):
        write_atomic(folder / "transfer.csv", as_csv(moved))
        _draw(heat_map(moved, suite=suite, status=status), folder / "transfer", "png", "pdf")
    threshold = float(trials["threshold"].iloc[0]) if len(trials) else 0.5
    swept = sweep(trials, suite, label_sets)
    write_atomic(folder / "sweep.csv", as_csv(swept))
    _draw(
        sweep_plot(swept, threshold=threshold, suite=suite, status=status), folder / "sweep", "png"
    )
    curves = [row for row in curves if row["method"] not in taken.unpooled]
    spent = budget(table, trials, curves, suite, taken.looks)
    if len(spent):
        write_atomic(folder / "budget.csv", as_csv(spent))
        _draw(budget_plot(spent, suite=suite, status=status), folder / "budget", "png", "pdf")
    staged = stages(trials, suite)
    if len(staged):
        write_atomic(folder / "stages.csv", as_csv(staged))
    heap.trim()
    grids = _grids(folder, pictures, scores, prompts, threshold=threshold)
    grids += _copied(folder, taken)
    write_atomic(
        folder / "provenance.json",
        (json.dumps(provenance, indent=1, sort_keys=True) + "\n").encode(),
    )
    if cells is not None:
        check(cells, CELLS)
        write_atomic(folder / "cells.csv", as_csv(cells))
    contents = Contents(
        suite=suite, worst=worst, table=table, flags=flags, edits=edits, grids=grids, provenance=provenance,
        status=status, transfer=bool(len(moved)), candidates=write_candidates(folder, candidates, taken),
        cells=cells, measures=cost, agreement=alike, stages=staged, budget=bool(len(spent)),
    )  # fmt: skip
    write_atomic(folder / PAGE, page(contents).encode())
    shown = RunPage(
        suite=suite, worst=worst, table=table, flags=flags, provenance=provenance, status=status,
        cards=gallery(pictures, images, prompts, trials, taken=taken.cards), measures=cost, agreement=alike,
        apart=disagreements(pictures, images, prompts, trials), sweep=(folder / "sweep.png").read_bytes(),
        budget=(folder / "budget.png").read_bytes() if len(spent) else b"", stages=staged,
    )  # fmt: skip
    write_atomic(folder / RUN_PAGE, run_page(shown).encode())


def _draw(figure: Figure, place: Path, *endings: str) -> None:
    """Writes a figure in each of the formats; nobody holds it afterwards."""
    for ending in endings:
        save(figure, place.with_name(f"{place.name}.{ending}"))


def _grids(
    folder: Path,
    pictures: Mapping[str, Mapping[Key, Sequence[Picture | None]]],
    scores: Mapping[str, Mapping[Key, Sequence[float]]],
    prompts: Mapping[str, Mapping[Key, Sequence[str]]],
    *,
    threshold: float,
) -> list[tuple[str, str]]:
    """Writes a grid per concept; returns each concept with the name of its file."""
    grids: list[tuple[str, str]] = []
    for concept, shown in pictures.items():
        name = own_name(concept)
        if name in [other for _, other in grids]:  # two concepts that differ in punctuation only
            name = f"grid-{slug(concept)}_{len(grids)}.png"
        sheet = grid(
            shown,
            scores.get(concept, {}),
            prompts.get(concept, {}),
            concept=concept,
            methods=_methods([m for m, _ in shown]),
            attacks=list(dict.fromkeys(a for _, a in shown)),
            threshold=threshold,
        )
        write_atomic(folder / name, sheet.png())
        grids.append((concept, name))
    return grids


def _copied(folder: Path, taken: Taken) -> list[tuple[str, str]]:
    """Writes the grids of earlier reports; returns what each shows with the name of its file."""
    for one in taken.grids:
        write_atomic(folder / one.name, one.png)
    return [
        (f"{one.concept}, from the report at {one.commit[:12]}", one.name) for one in taken.grids
    ]


def _methods(names: Sequence[str]) -> list[str]:
    rank = {BASE: 0, FLOOR: 2}
    return sorted(dict.fromkeys(names), key=lambda n: rank.get(n, 1))


def in_row_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows in an order of their own, in which the judge of record stays first; the frame itself if they are."""
    keys = [name for name in _KEYS if name in frame]
    if "candidate" in keys:  # its index says more than the prompt
        keys = [name for name in keys if name not in ("prompt", "image_seed")]
    order = frame[keys]
    if "judge" in order:
        ranks = {name: rank for rank, name in enumerate(frame["judge"].unique())}
        order = order.assign(judge=order["judge"].map(ranks))
    sorted_ = order.sort_values(keys, kind="stable").index
    return frame if sorted_.equals(frame.index) else frame.loc[sorted_].reset_index(drop=True)


def _parquet(frame: pd.DataFrame, schema: Schema) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(to_arrow(frame, schema), buffer, compression="zstd")
    return buffer.getvalue()
