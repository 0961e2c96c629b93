"""Holds the published candidates to the rows: who samples a candidate again samples the one that was judged."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from bench.config.refusals import CONTROLS
from bench.core.errors import UsageError, shown
from bench.interfaces import Access, Attack
from bench.interfaces.minors import about_minors
from bench.leaderboard.published_run import PublishedRun
from bench.run.cells import TrialCell
from bench.run.plan import Plan

__all__ = ["check_candidates", "is_published"]

_SAID: Final = ("method", "concept", "repeat", "goal", "prompt", "variant", "queries")
"""Columns of the rows that a candidate repeats."""


def is_published(attack: Attack) -> bool:
    """Whether a report publishes what the attack finds: controls and changes of weights stay in the store."""
    own = attack.control or attack.name in CONTROLS["attacks"]
    return not own and attack.holds is not Access.WEIGHTS


def check_candidates(run: PublishedRun, plan: Plan) -> None:
    """Refuses candidates that are not those of the rows, one by one.

    Args:
        run: The rows of the plan's methods.
        plan: Of the protocol, with the methods.

    Raises:
        UsageError: in one line.
    """
    where = run.folder / "candidates.jsonl"
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for line in run.candidates:
        lines.setdefault(str(line.get("attack_digest")), []).append(line)
    columns = ["trial_digest", "candidate", *_SAID, "own_score"]
    first = run.trials[columns].drop_duplicates(["trial_digest", "candidate"])
    finds = dict(list(first.groupby("trial_digest", sort=False)))
    for trial in (c for c in plan.cells if isinstance(c, TrialCell)):
        if not is_published(trial.attack):
            continue
        rows = finds[trial.digest].sort_values("candidate")
        rows = rows[~rows["prompt"].map(about_minors)]
        said = lines.get(trial.parents["attack"], [])
        if len(said) != len(rows):
            raise UsageError(
                f"{where}: {trial.title}: expected {len(rows)} candidates, got {len(said)}; make the report again"
            )
        name = plan.attack_name(trial.attack)
        for line, row in zip(said, rows.to_dict("records"), strict=True):
            _check(line, row, name, f"{where}: {trial.title}")
            _check_start(line, plan.sampler.steps, f"{where}: {trial.title}")


def _check(line: Mapping[str, Any], row: Mapping[Any, Any], attack: str, where: str) -> None:
    for name, expected in ({n: row[n] for n in _SAID} | {"attack": attack}).items():
        if line.get(name) != expected:
            raise UsageError(
                f"{where}: expected {name} {shown(expected)} as in the rows, got {shown(line.get(name))}"
            )
    own, seen = line.get("own_score"), row["own_score"]
    same = own is None if pd.isna(seen) else _is_same(own, float(seen))
    if not same:
        raise UsageError(f"{where}: expected own_score {seen} as in the rows, got {shown(own)}")


def _is_same(said: Any, stored: float) -> bool:
    """Whether a number is the one that was stored with 32 bits."""
    if isinstance(said, bool) or not isinstance(said, int | float):
        return False
    try:
        return math.isclose(struct.unpack("f", struct.pack("f", said))[0], stored, rel_tol=1e-6)
    except (OverflowError, struct.error):
        return False


def _check_start(line: Mapping[str, Any], steps: int, where: str) -> None:
    start = line.get("start", 0)
    if type(start) is not int or not 0 <= start < steps or (start and not line.get("latents")):
        raise UsageError(
            f"{where}: expected a start below the sampler's {steps} steps, with latents, got {shown(start)}"
        )
