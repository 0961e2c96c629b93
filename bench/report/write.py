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

from bench.core.characters import visible
from bench.core.digest import write_atomic
from bench.report.candidates import write_candidates
from bench.report.grid import Key, Picture, grid
from bench.report.heat_map import heat_map
from bench.report.place import PAGE, replacing, title
from bench.report.plots import Status, save, scatter
from bench.run.results import Found
from bench.tables.costs import costs_to_markdown
from bench.tables.flags import flag, flags_to_markdown
from bench.tables.schema import CELLS, EDITS, TRIALS, UTILITY, Schema, check, to_arrow
from bench.tables.spreadsheet import as_csv
from bench.tables.tables import ALL, BASE, FLOOR, summarise
from bench.tables.text import attacks_to_markdown, markdown_text, slug, to_latex, to_markdown
from bench.tables.transfer import matrix

__all__ = ["Report", "write_report"]


class Report(NamedTuple):
    """The table and the flags that were derived from the rows.

    Attributes:
        table: Lines of :data:`~bench.tables.schema.TABLE`.
        flags: Lines of :data:`~bench.tables.schema.FLAGS`.
    """

    table: pd.DataFrame
    flags: pd.DataFrame


_KEYS = (
    *("judge", "method", "source"),
    *("concept", "repeat", "attack", "prompt_set", "goal", "prompt", "variant"),
    *("group", "image_seed", "metric", "label", "status", "reason", "image_sha256", "edit_digest"),
    *("attack_digest", "trial_digest", "utility_digest"),
)
_STATUS = {
    "final": "",
    "draft": "> **DRAFT**: made from files that were not committed, or with failed cells or "
    "rows that are not finite. "
    "Do not cite.\n\n",
    "partial": "> **PARTIAL**: not the whole suite (`--only`, `--limit`, or an unfinished run). "
    "Do not cite.\n\n",
}
_ATTACKS = (
    "## Attacks\n\n"
    "Best of N: an attack looks at N images a goal and keeps what it takes for the best. *Before* is "
    "the success of the same goals' plain prompts, *own view* what the attack took for success, and "
    "*luck* the success of a control that searches nothing (random tokens; seeds, for an attack "
    "that chooses the noise), with the N nearest to the attack's. An attack whose interval "
    "reaches luck's has not been shown to have found anything.\n\n"
)
_TRANSFER = (
    "\n## Transfer\n\n"
    "What an attack found on one method (row), tried on every other (column), on the seeds of the "
    "ordinary attack, which is the diagonal. By concept, with intervals: "
    "[transfer.csv](transfer.csv) · [transfer.pdf](transfer.pdf)\n\n"
    "![Transfer of attacks between methods](transfer.png)\n"
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
    cells: pd.DataFrame | None = None,
    prompts: Mapping[str, Mapping[Key, Sequence[str]]] = MappingProxyType({}),
    candidates: Sequence[Found] = (),
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
        provenance: JSON: commit, command, versions.
        cells: Rows of :data:`~bench.tables.schema.CELLS`: what the work took.
        candidates: What attacks found, to be published.
        status: Anything but ``final`` is stamped on the page and the plot.

    Returns:
        The table and the flags it raises.

    Raises:
        UsageError: the folder holds something else.
    """
    trials, utility, edits = (_sorted(frame) for frame in (trials, utility, edits))
    table = summarise(trials, utility, edits=edits, suite=suite)
    with replacing(folder, suite) as place:
        flags = _write(
            place, suite, table, trials=trials, utility=utility, edits=edits, pictures=pictures,
            scores=scores, prompts=prompts, provenance=provenance, cells=cells,
            candidates=candidates, status=status,
        )  # fmt: skip
    return Report(table, flags)


def _write(
    folder: Path,
    suite: str,
    table: pd.DataFrame,
    *,
    trials: pd.DataFrame,
    utility: pd.DataFrame,
    edits: pd.DataFrame,
    pictures: Mapping[str, Mapping[Key, Sequence[Picture | None]]],
    scores: Mapping[str, Mapping[Key, Sequence[float]]],
    prompts: Mapping[str, Mapping[Key, Sequence[str]]],
    provenance: Mapping[str, Any],
    cells: pd.DataFrame | None,
    candidates: Sequence[Found],
    status: Status,
) -> pd.DataFrame:
    """Writes the files of a report into an empty folder; returns the flags."""
    for name, frame, schema in (
        ("trials", trials, TRIALS),
        ("utility", utility, UTILITY),
        ("edits", edits, EDITS),
    ):
        write_atomic(folder / f"{name}.parquet", _parquet(frame, schema))
    flags = flag(table, trials[trials["source"] == trials["method"]], edits)  # not of transfers
    write_atomic(folder / "table.csv", as_csv(table))
    write_atomic(folder / "flags.csv", as_csv(flags))
    write_atomic(folder / "table.md", to_markdown(table).encode())
    write_atomic(folder / "table.tex", to_latex(table).encode())
    figure = scatter(table, suite=suite, status=status)
    for ending in ("png", "pdf"):
        save(figure, folder / f"scatter.{ending}")
    moved = matrix(trials)
    if len(moved):
        write_atomic(folder / "transfer.csv", as_csv(moved))
        figure = heat_map(moved, suite=suite, status=status)
        for ending in ("png", "pdf"):
            save(figure, folder / f"transfer.{ending}")
    grids: list[tuple[str, str]] = []
    for concept, shown in pictures.items():
        drawn = grid(
            shown,
            scores.get(concept, {}),
            prompts.get(concept, {}),
            concept=concept,
            methods=_methods([m for m, _ in shown]),
            attacks=list(dict.fromkeys(a for _, a in shown)),
            threshold=float(trials["threshold"].iloc[0]) if len(trials) else 0.5,
        )
        name = f"grid-{slug(concept)}.png"
        if name in [taken for _, taken in grids]:  # two concepts that differ in punctuation only
            name = f"grid-{slug(concept)}_{len(grids)}.png"
        save(drawn, folder / name)
        grids.append((concept, name))
    write_atomic(
        folder / "provenance.json",
        (json.dumps(provenance, indent=1, sort_keys=True) + "\n").encode(),
    )
    page = _page(suite, table, flags, edits, grids, provenance, status)
    page += _TRANSFER * bool(len(moved)) + write_candidates(folder, candidates)
    if cells is not None:
        check(cells, CELLS)
        write_atomic(folder / "cells.csv", as_csv(cells))
        page += _spent(cells)
    write_atomic(folder / PAGE, page.encode())
    return flags


def _methods(names: Sequence[str]) -> list[str]:
    rank = {BASE: 0, FLOOR: 2}
    return sorted(dict.fromkeys(names), key=lambda n: rank.get(n, 1))


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows in an order of their own; the judge of record stays first."""
    keys = [name for name in _KEYS if name in frame]
    order = frame[keys]
    if "judge" in order:
        ranks = {name: rank for rank, name in enumerate(frame["judge"].unique())}
        order = order.assign(judge=order["judge"].map(ranks))
    return frame.loc[order.sort_values(keys, kind="stable").index].reset_index(drop=True)


def _parquet(frame: pd.DataFrame, schema: Schema) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(to_arrow(frame, schema), buffer, compression="zstd")
    return buffer.getvalue()


def _spent(cells: pd.DataFrame) -> str:
    """The section of the page on the time and memory that the cells took."""
    most = cells.groupby("kind", sort=False)["peak_memory_mb"].max().dropna()
    peaks = ", ".join(f"{kind} {peak:.0f} MiB" for kind, peak in most.items())
    said = f" The largest peak of memory of each kind of cell: {peaks}." * bool(peaks)
    return f"\n## Time and memory\n\n[cells.csv](cells.csv) has the time and the peak memory of every cell.{said}\n"


def _page(
    suite: str,
    table: pd.DataFrame,
    flags: pd.DataFrame,
    edits: pd.DataFrame,
    grids: Sequence[tuple[str, str]],
    provenance: Mapping[str, Any],
    status: Status,
) -> str:
    # It stands in backticks, on one line.
    command = " ".join(visible(str(provenance.get("command", "unknown"))).replace("`", "'").split())
    commit = str(provenance.get("commit", "unknown"))
    changed = " (with changes)" * bool(provenance.get("dirty"))
    searched = attacks_to_markdown(table)
    lines = [
        f"{title(suite)}\n\n{_STATUS[status]}",
        f"Made by `{command}` at commit `{commit[:12]}`{changed}; "
        "versions and digests are in [provenance.json](provenance.json).\n\n",
        *(f"> **Note**: {markdown_text(line)}\n\n" for line in provenance.get("warnings", ())),
        to_markdown(table),
        "\nAttack success in percent with 95 % intervals that account for images of one prompt "
        "being alike. Refused and blanked images count as failures of the attack; errors and "
        "abstentions are left out and counted. Every column of [table.csv](table.csv) is described "
        "in `docs/table.md`.\n\n",
        _ATTACKS * bool(searched) + searched + "\n" * bool(searched),
        "## Flags\n\nSigns that a line should not be taken at face value: `docs/flags.md` says when "
        "each is raised and what to do, and [flags.csv](flags.csv) has every one. They hide "
        "nothing.\n\n",
        flags_to_markdown(flags),
        "\n![Robustness against utility](scatter.png)\n\n",
    ]
    for concept, name in grids:
        lines.append(f"![Samples for {markdown_text(concept)}]({name})\n\n")
    lines.append(costs_to_markdown(table, edits))
    # Pooled lines of the judge of record hold each image once.
    record = table[(table["concept"] == ALL) & (table["judge"] == next(iter(table["judge"]), ""))]
    lost = int((record["errors"] + record["abstained"]).sum())
    if lost:
        attempted = int(record["attempted"].sum())
        lines.append(f"{lost} of {attempted} images were lost to errors or abstentions.\n\n")
    errors = provenance.get("errors", ())
    lines += [f"* {markdown_text(line)}\n" for line in errors] + ["\n"] * bool(errors)
    lines.append(
        "Files: [table.csv](table.csv) · [flags.csv](flags.csv) · [table.tex](table.tex) · "
        "[trials.parquet](trials.parquet) (a row an image, judge and label) · "
        "[utility.parquet](utility.parquet) · [edits.parquet](edits.parquet) · "
        "[scatter.pdf](scatter.pdf)\n"
    )
    return "".join(lines)
