"""From the store to a report: collects what it holds of a plan, says how final that is, and writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bench.collect import Results, collect
from bench.plan import Plan
from bench.provenance import commit
from bench.report.plots import Status
from bench.report.write import write_report
from bench.store import Store

if TYPE_CHECKING:
    from bench.runner import Outcome

__all__ = ["Published", "publish"]


@dataclass(frozen=True, slots=True)
class Published:
    """A report that was written.

    Attributes:
        folder: Where.
        found: What it was written from.
        table: Its table.
        flags: The flags that it raises.
    """

    folder: Path
    found: Results
    table: pd.DataFrame
    flags: pd.DataFrame


def publish(
    plan: Plan, store: Store, folder: Path | None = None, outcome: Outcome | None = None
) -> Published:
    """Writes the report of a plan from the store; computes nothing.

    Args:
        plan: What was asked for.
        store: What there is of it.
        folder: Where the report goes; by default ``results/<suite>``, or ``results/drafts/<suite>``
            if it is partial.
        outcome: Of the run that filled the store, if there was one just now.
    """
    found = collect(plan, store)
    origin = commit()
    status: Status = (
        "partial"
        if plan.partial or found.missing
        else "draft"
        if origin["dirty"] or found.failed
        else "final"
    )
    name = plan.suite.name
    folder = folder or (
        Path("results/drafts") / name if status == "partial" else Path("results") / name
    )
    inside, total = found.seconds
    provenance = {
        **origin,
        "command": f"tvc-bench run {name}",
        "suite_digest": plan.suite.digest,
        "base": plan.base,
        "failed": found.failed,
        "missing": found.missing,
        "cell_seconds": round(total, 1),
        "share_outside_models": round(1 - inside / total, 4) if total else 0.0,
    }
    if outcome is not None:
        provenance["run"] = {k: v for k, v in outcome.as_json().items() if k != "failed"}
    written = write_report(
        folder, name, trials=found.trials, utility=found.utility, edits=found.edits,
        pictures=found.pictures, scores=found.scores, provenance=provenance,
        cells=found.cells, candidates=found.candidates, status=status,
    )  # fmt: skip
    return Published(folder, found, written.table, written.flags)
