"""From the store to a report: collects what it holds of a plan, says how final that is, and writes it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.plan import Plan
from bench.provenance import commit
from bench.store import Store
from bench.suite import Code, load_suite, suite_names

if TYPE_CHECKING:
    import pandas as pd

    from bench.collect import Results
    from bench.report.plots import Status
    from bench.runner import Outcome

__all__ = ["Asked", "Published", "publish"]

_TAKEN: Final = frozenset({"drafts", "paper", "perf"})
"""Folders of ``results/`` that are no suite's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asked for, as far as it decides the results.

    Attributes:
        source: The suite: the name of a shipped one, or a file.
        only: The patterns of ``--only``.
        limit: That of ``--limit``.
        seed: One in place of the suite's own; ``None``: its own.
        code: Whose code the suite may run.
    """

    source: str
    only: tuple[str, ...] = ()
    limit: int | None = None
    seed: int | None = None
    code: Code = "installed"

    @property
    def command(self) -> str:
        """What computes the same again."""
        words = ["tvc-bench", "run", self.source]
        words += [word for pattern in self.only for word in ("--only", pattern)]
        for name, value in (("--limit", self.limit), ("--seed", self.seed)):
            words += [name, str(value)] if value is not None else []
        words += ["--allow-code"] if self.code == "named" else []
        return shlex.join(words)


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
    plan: Plan,
    store: Store,
    asked: Asked,
    *,
    folder: Path | None = None,
    outcome: Outcome | None = None,
) -> Published:
    """Writes the report of a plan from the store; computes nothing.

    Args:
        plan: The cells of what was asked for.
        store: What there is of it.
        asked: How it was asked for; the page names the command.
        folder: Where the report goes; by default ``results/<suite>``, or ``results/drafts/<suite>``
            if it is partial, or where that is the place of other results: those of another seed,
            or those of the shipped suite of that name.
        outcome: Of the run that filled the store, if there was one just now.
    """
    # Tables and plots load pandas and matplotlib; a plan says how it was asked for without them.
    from bench.collect import collect
    from bench.report.write import write_report

    found = collect(plan, store)
    origin = commit()
    status: Status = (
        "partial"
        if plan.partial or found.missing
        else "draft"
        if origin["dirty"] or found.failed or found.errors
        else "final"
    )
    name = plan.suite.name
    at_home = status != "partial" and _has_the_place(plan, asked)
    folder = folder or Path("results" if at_home else "results/drafts") / name
    inside, total = found.seconds
    provenance = {
        **origin,
        "command": asked.command,
        "seed": plan.suite.seed,
        "suite_digest": plan.suite_digest,
        "warnings": list(plan.warnings),
        "base": plan.base,
        "failed": found.failed,
        "errors": found.errors,
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


def _has_the_place(plan: Plan, asked: Asked) -> bool:
    """Whether ``results/<suite>`` is for these results: a name and a seed stand for one suite there."""
    name = plan.suite.name
    if name in suite_names():
        return asked.source == name and plan.suite == load_suite(name)
    return asked.seed is None and name not in _TAKEN
