"""Holds the rows of a run to the plan of its protocol: no row too few, none too many, each as it must be.

A plan names every cell by a digest of all that its numbers depend on. So rows of another base, seed, attack,
threshold or method are found without computing anything. What a score should have been is not: that takes the model.
"""

from __future__ import annotations

import re
from typing import Any, Final

import pandas as pd

from bench.core.errors import UsageError, shown
from bench.leaderboard.held_costs import check_edits, check_utility
from bench.leaderboard.published_run import PublishedRun
from bench.leaderboard.same import check_same, check_statuses
from bench.run.cells import JudgedCell, TrialCell
from bench.run.plan import Plan
from bench.tables.spreadsheet import from_cell
from bench.tables.tables import PLAIN

__all__ = ["check_rows"]

_FIXED: Final = ("latent", "weights")
"""Accesses that may bring the noise along: such a candidate has one image."""
_FIND: Final = ["goal", "prompt_set", "prompt", "variant", "own_score", "queries"]
_SHA: Final = re.compile(r"[0-9a-f]{64}")


def check_rows(run: PublishedRun, plan: Plan) -> None:
    """Refuses rows that a run of the plan would not have given.

    Args:
        run: The rows of the plan's methods, and no others.
        plan: Of the protocol, with the methods.

    Raises:
        UsageError: in one line.
    """
    about = run.provenance
    for name, expected in (("base", plan.base), ("seed", plan.suite.seed)):
        if about.get(name) != expected:
            got = shown(about.get(name))
            raise UsageError(
                f"{run.folder / 'provenance.json'}: expected the {name} {expected}, got {got}; run the protocol"
            )
    _check_cells(run, plan)
    _check_trials(run, plan)
    check_utility(run, plan)
    check_edits(run, plan)


def _check_cells(run: PublishedRun, plan: Plan) -> None:
    where = run.folder / "cells.csv"
    listed = {row["digest"]: row for row in run.cells.to_dict("records")}
    if len(listed) < len(run.cells):
        raise UsageError(f"{where}: expected each cell once, got one twice; make the report again")
    for cell in plan.cells:
        row = listed.get(cell.digest)
        if row is None:
            raise UsageError(
                f"{where}: expected the cell {cell.digest[:12]} ({cell.title}), and it is missing; the run is "
                "partial, or of another protocol"
            )
        told = (row["kind"], from_cell(row["method"]), from_cell(row["concept"]))
        if told != (cell.kind, cell.method_label, cell.concept.text):
            raise UsageError(f"{where}: expected {cell.title}, got {shown(' / '.join(told))}")
    known, labels = {c.digest for c in plan.cells}, {c.method_label for c in plan.cells} - {""}
    for digest, row in listed.items():
        moved = row["source"] not in ("", row["method"])
        if digest not in known and from_cell(row["method"]) in labels and not moved:
            raise UsageError(
                f"{where}: expected no cell {shown(digest)} of {shown(row['method'])}, which the protocol lacks"
            )


def _check_trials(run: PublishedRun, plan: Plan) -> None:
    where = run.folder / "trials.parquet"
    texts: list[str] = run.trials.select_dtypes("str").columns.tolist()
    # A trial has few rows: to compare them as Arrow's strings takes longer than as Python's.
    trials = run.trials.astype(dict.fromkeys(texts, object))
    rows = dict(list(trials.groupby(["trial_digest", "judge"], sort=False)))
    judged = [c for c in plan.cells if isinstance(c, JudgedCell) and not c.trial.source]
    for cell in judged:
        mine = rows.pop((cell.trial.digest, cell.by), None)
        if mine is None:
            raise UsageError(
                f"{where}: expected rows of {cell.title}, got none; the run is partial"
            )
        _check_trial(mine, cell, plan, f"{where}: {cell.title}")
    for (digest, judge), mine in rows.items():
        method = mine["method"].iloc[0]
        raise UsageError(
            f"{where}: expected no trial {shown(digest)} of {shown(method)} by {shown(judge)}, got {len(mine)} rows"
        )


def _check_trial(rows: pd.DataFrame, cell: JudgedCell, plan: Plan, where: str) -> None:
    trial = cell.trial
    access = trial.attack.holds.name.lower()
    check_same(
        rows,
        {
            **cell.said, "source": cell.source_label, "attack": plan.attack_name(trial.attack), "access": access,
            "control": trial.attack.control, "gradients": trial.attack.gradients,
            "edit_digest": trial.parents["edit"], "attack_digest": trial.parents["attack"],
            "own_threshold": plan.surrogate.threshold, "threshold": cell.judge.threshold,
        },
        where,
    )  # fmt: skip
    check_statuses(rows, cell, where)
    labels = cell.judge.labels(cell.concept)
    images = rows.drop_duplicates(["candidate", "draw"])
    if (
        len(rows) != len(images) * len(labels)
        or rows.duplicated(["candidate", "draw", "label"]).any()
    ):
        raise UsageError(
            f"{where}: expected {len(labels)} rows per image, got {len(rows)} of {len(images)}"
        )
    if set(rows["label"]) != set(labels):
        raise UsageError(f"{where}: expected the labels {', '.join(labels)}, got others")
    counting = set(cell.judge.counts(cell.concept))
    if (rows["counts"] != rows["label"].isin(counting)).any():
        raise UsageError(f"{where}: expected {', '.join(sorted(counting))} to count, got others")
    _check_images(images, trial, plan, where, may_fix=access in _FIXED)


def _check_images(
    images: pd.DataFrame, trial: TrialCell, plan: Plan, where: str, *, may_fix: bool
) -> None:
    """Holds the images of a trial to its goals and to the held-out seeds, one by one."""
    sets = {goal.id: goal.prompt_set for goal in trial.goals}
    asked = {goal.id: goal.prompt for goal in trial.goals}
    stream = plan.rng.child("held-out", trial.concept.text, trial.repeat)
    finds: dict[int, tuple[Any, ...]] = {}
    draws: dict[int, set[int]] = {}
    columns = ["candidate", "draw", "image_seed", "status", "image_sha256", *_FIND]
    for number, draw, seed, status, sha, *find in zip(
        *(images[c].tolist() for c in columns), strict=True
    ):
        goal, prompt_set, prompt, variant, _, queries = find
        known = (goal, prompt_set, prompt, variant, str(find[4]), queries)
        if finds.setdefault(number, known) != known:
            raise UsageError(f"{where}: expected candidate {number} to be one find, got several")
        draws.setdefault(number, set()).add(draw)
        if sets.get(goal) != prompt_set:
            raise UsageError(
                f"{where}: expected the goals of the protocol, got {shown(goal)} of {shown(prompt_set)}"
            )
        if trial.attack.name == PLAIN and prompt != asked[goal]:
            raise UsageError(f"{where}: expected the prompt of {goal}, got {shown(prompt)}")
        given = trial.draws.get(goal)
        expected = stream.seed(goal, draw) if given is None else given.seed
        if seed != expected:
            raise UsageError(f"{where}: {goal}: expected the held-out seed {expected}, got {seed}")
        if not (_SHA.fullmatch(sha) if status == "ok" else sha == ""):
            raise UsageError(
                f"{where}: {goal}: expected the digest of an image that is {status}, got {shown(sha)}"
            )
    if sorted(finds) != list(range(len(finds))):
        raise UsageError(f"{where}: expected candidates from 0 on, got {shown(sorted(finds))}")
    if missing := set(sets) - {find[0] for find in finds.values()}:
        raise UsageError(
            f"{where}: expected its {len(sets)} goals, and {shown(min(missing))} is missing"
        )
    whole = set(range(trial.images))
    for number, got in draws.items():
        if got != whole and not (may_fix and got == {0}):
            raise UsageError(
                f"{where}: expected {trial.images} images of candidate {number}, got {len(got)}"
            )
