"""Holds the rows of what edits cost to the plan of a protocol: utility prompts with their seeds, and the edits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import UsageError, shown
from bench.leaderboard.published_run import PublishedRun
from bench.leaderboard.same import check_same, check_statuses
from bench.run.cells import EditCell, MeasuredCell, UtilityCell
from bench.run.plan import Plan

__all__ = ["check_edits", "check_utility"]


def check_utility(run: PublishedRun, plan: Plan) -> None:
    """Refuses utility rows that a run of the plan would not have given.

    Raises:
        UsageError: in one line.
    """
    where = run.folder / "utility.parquet"
    rows = dict(list(run.utility.groupby(["utility_digest", "metric"], sort=False)))
    for cell in (c for c in plan.cells if isinstance(c, MeasuredCell)):
        mine = rows.pop((cell.utility.digest, cell.by), None)
        if mine is None:
            raise UsageError(
                f"{where}: expected rows of {cell.title}, got none; the run is partial"
            )
        at = f"{where}: {cell.title}"
        threshold = cell.metric.threshold(plan.judges[0])
        edit = cell.utility.parents["edit"]
        check_same(mine, {**cell.said, "threshold": threshold, "edit_digest": edit}, at)
        check_statuses(mine, cell, at)
        columns = ["group", "prompt", "prompt_concept", "image_seed"]
        got = sorted(mine[columns].itertuples(index=False, name=None))
        expected = sorted(_asked(cell, cell.utility, plan))
        if got != expected:
            raise UsageError(
                f"{at}: expected the protocol's {len(expected)} prompts and seeds, got {len(got)} or others"
            )
    for (digest, metric), mine in rows.items():
        raise UsageError(
            f"{where}: expected no values of {shown(metric)} for {shown(digest)}, got {len(mine)} rows"
        )


def _asked(cell: MeasuredCell, utility: UtilityCell, plan: Plan) -> list[tuple[str, str, str, int]]:
    stream = plan.rng.child("utility", cell.concept.text)
    found = []
    for i, (group, prompt) in enumerate(utility.prompts):
        if prompt.concept or not cell.metric.asks_judge:
            draw = utility.draws.get(i)
            seed = stream.seed(i, prompt.text) if draw is None else draw.seed
            found.append((group, prompt.text, prompt.concept, seed))
    return found


def check_edits(run: PublishedRun, plan: Plan) -> None:
    """Refuses edits that a run of the plan would not have made.

    Raises:
        UsageError: in one line.
    """
    where = run.folder / "edits.parquet"
    rows = {(r["edit_digest"], r["concept"]): r for r in run.edits.to_dict("records")}
    if len(rows) < len(run.edits):
        raise UsageError(f"{where}: expected each edit and concept once, got one twice")
    spent = dict(zip(run.cells["digest"], run.cells["seconds"], strict=True))
    for cell in (c for c in plan.cells if isinstance(c, EditCell)):
        for concept in cell.erased:
            row = rows.pop((cell.digest, concept.text), None)
            if row is None:
                raise UsageError(
                    f"{where}: expected {cell.title}, got no such edit; the run is partial"
                )
            told = (row["method"], row["repeat"])
            if told != (cell.method_label, cell.repeat):
                raise UsageError(f"{where}: expected {cell.title}, got {shown(told)}")
            _check_cost(row, cell, spent[cell.digest], where)
    if rows:
        digest, concept = next(iter(rows))
        raise UsageError(f"{where}: expected no edit {shown(digest)} of {shown(concept)}, got one")
    if len(set(run.edits["parameters_total"])) > 1:
        raise UsageError(f"{where}: expected one number of parameters of one base, got several")


def _check_cost(row: Mapping[Any, Any], cell: EditCell, spent: str, where: Path) -> None:
    slots = set(row["slots"].split(",")) - {""}
    if not slots <= set(cell.method.slots):
        raise UsageError(
            f"{where}: expected slots that {cell.method.name} declares, got {row['slots']}"
        )
    try:
        most = float(spent)
    except ValueError:
        most = -1.0
    if not 0 <= row["seconds"] <= most * 1.0001 + 1e-3:
        raise UsageError(
            f"{where}: {cell.title}: expected at most the {spent} s of its cell, got {row['seconds']:.6g} s"
        )
    if not 0 <= row["parameters_touched"] <= row["parameters_total"]:
        raise UsageError(f"{where}: {cell.title}: expected no more parameters than the model has")
