"""From the store to a report: collects what it holds of a plan, says how final that is, and writes it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config.other_base import on_base
from bench.config.protocols import followed
from bench.config.suite import Code, read_suite, suite_names
from bench.core import heap
from bench.core.errors import UsageError, shown
from bench.core.shipped import MINIATURES, results_folder
from bench.extend.rest import rest_of
from bench.run.plan import Plan
from bench.run.provenance import commit
from bench.run.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from bench.extend.extension import Extension
    from bench.report.plots import Status
    from bench.run.results import Results
    from bench.run.runner import Outcome
    from bench.tables.compare import Comparison

__all__ = ["Asked", "Published", "committed_place", "place", "publish"]

_COMMITTED = Path("results")
_RUNS, _DRAFTS = _COMMITTED / "runs", _COMMITTED / "drafts"
"""Where reports go by themselves; git ignores both."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request of a user, as far as it decides the results.

    Attributes:
        source: The suite: the name of a shipped one, or a file.
        only: The patterns of ``--only``.
        limit: That of ``--limit``.
        seed: One in place of the suite's own; ``None``: its own.
        code: Whose code the suite may run.
        said: The whole command, where it is another than ``run``.
        base: One in place of the suite's own; ``None``: its own.
    """

    source: str
    only: tuple[str, ...] = ()
    limit: int | None = None
    seed: int | None = None
    code: Code = "installed"
    said: str = ""
    base: str | None = None

    @property
    def command(self) -> str:
        """The command that computes the same again."""
        if self.said:
            return self.said
        words = ["tvc-bench", "run", self.source]
        words += [word for pattern in self.only for word in ("--only", pattern)]
        options = (("--limit", self.limit), ("--seed", self.seed), ("--base", self.base))
        for name, value in options:
            words += [name, str(value)] if value is not None else []
        words += ["--allow-code"] if self.code == "named" else []
        return shlex.join(words)

    def command_to(self, folder: Path | None) -> str:
        """The command that computes the same again and writes its report to the same folder.

        ``None`` stands for the folder that the command would choose by itself.
        """
        return (
            self.command if folder is None else f"{self.command} --out {shlex.quote(str(folder))}"
        )


@dataclass(frozen=True, slots=True)
class Published:
    """A report that was written.

    Attributes:
        folder: Where.
        found: What it was written from.
        table: Its table.
        flags: The flags that it raises.
        worst: The worst case per goal.
        compared: The committed folder of the suite and how the table compares with its; ``None`` where
            there is nothing to compare.
    """

    folder: Path
    found: Results
    table: pd.DataFrame
    flags: pd.DataFrame
    worst: pd.DataFrame
    compared: tuple[Path, Comparison] | None = None


def publish(
    plan: Plan,
    store: Store,
    asked: Asked,
    *,
    folder: Path | None = None,
    outcome: Outcome | None = None,
    extended: Extension | None = None,
) -> Published:
    """Writes the report of a plan from the store; computes nothing.

    Args:
        plan: The cells of what was asked for.
        store: What there is of it.
        asked: How it was asked for; the page names the command.
        folder: Where the report goes; by default where :func:`place` says.
        outcome: Of the run that filled the store, if there was one just now.
        extended: The lines of the plan that are taken from an earlier report; the store has the rest.

    Raises:
        UsageError: the folder holds something else, or the report that was extended, which the new one
            must be final to replace.
    """
    # Tables and plots load pandas and matplotlib; a plan says how it was asked for without them.
    from bench.report.taken import NOTHING
    from bench.report.write import in_row_order, write_report
    from bench.run.collect import collect

    found = collect(rest_of(plan, extended), store)
    if extended is not None:
        extended.joined(found)
    heap.trim()
    # Once, and in place of the others: a report would hold its rows twice.
    found.trials, found.utility = in_row_order(found.trials), in_row_order(found.utility)
    heap.trim()
    origin = commit()
    status: Status = (
        "partial"
        if plan.partial or found.missing
        else "draft"
        if origin["dirty"] or found.failed or found.blocked or found.errors
        else "final"
    )
    name, command = plan.suite.name, asked.command_to(folder)
    if extended is not None:
        command = f"{command} --extend {shlex.quote(str(extended.run.folder))}"
    folder = folder or (_DRAFTS / name if status == "partial" else place(plan, asked))
    if extended is not None and status != "final":
        extended.keep_apart(folder)
    inside, total = found.seconds
    provenance = {
        **origin,
        "command": command,
        "seed": plan.suite.seed,
        "suite_digest": plan.suite_digest,
        "warnings": [*plan.warnings, *(() if extended is None else extended.remarks)],
        "base": plan.base,
        "origins": found.origins,
        "failed": found.failed,
        "blocked": found.blocked,
        "errors": found.errors,
        "missing": found.missing,
        "cell_seconds": round(total, 1),
        "share_outside_models": round(1 - inside / total, 4) if total else 0.0,
    }
    if extended is not None:
        provenance["parts"] = extended.parts
    if status != "partial" and (protocol := followed(plan.suite.file)) is not None:
        provenance["protocol"] = protocol
    if outcome is not None:
        provenance["run"] = {
            k: v for k, v in outcome.as_json().items() if k not in ("failed", "blocked")
        }
    written = write_report(
        folder, name, trials=found.trials, utility=found.utility, edits=found.edits,
        pictures=found.pictures, scores=found.scores, prompts=found.prompts, images=found.images,
        distances=found.distances, provenance=provenance, cells=found.cells, candidates=found.candidates,
        curves=found.curves, status=status, taken=NOTHING if extended is None else extended.taken,
        label_sets={n: s for judge in plan.judges for n, s in judge.label_sets().items()},
    )  # fmt: skip
    compared = None if status == "partial" else _compared(plan, asked, folder, written.table)
    return Published(folder, found, written.table, written.flags, written.worst, compared)


def place(plan: Plan, asked: Asked) -> Path:
    """Where the report goes by itself if nothing is missing.

    ``results/runs/<suite>``, or ``results/drafts/<suite>`` if the plan is partial or the first is
    the place of other results. These are of another seed, or of the shipped suite of that name.
    """
    name = plan.suite.name
    at_home = _is_shipped(plan, asked) if name in suite_names() else asked.seed is None
    return (_RUNS if at_home and not plan.partial else _DRAFTS) / name


def committed_place(plan: Plan, asked: Asked) -> Path:
    """Where the committed report of a shipped suite is: ``results/<suite>``, or ``<suite>-on-<miniature>``.

    Raises:
        UsageError: what was asked for is not the whole of a shipped suite as it ships.
    """
    name = plan.suite.name
    if plan.partial or not _is_shipped(plan, asked):
        raise UsageError(
            f"--publish: expected the whole of a shipped suite as it ships, got {shown(asked.command)}; "
            "name a folder with --out"
        )
    return _COMMITTED / name


def _is_shipped(plan: Plan, asked: Asked) -> bool:
    """Whether the plan is of a shipped suite as it ships, or on another miniature, asked for by its name."""
    if asked.source not in suite_names() or asked.base not in (None, *MINIATURES):
        return False
    file = read_suite(asked.source)
    return plan.suite.file == (file if asked.base is None else on_base(file, asked.base))


def _compared(
    plan: Plan, asked: Asked, folder: Path, table: pd.DataFrame
) -> tuple[Path, Comparison] | None:
    """How the table compares with the committed one, where there is one elsewhere."""
    from bench.tables.compare import compare
    from bench.tables.frames import read_table

    there = results_folder(plan.suite.name) if _is_shipped(plan, asked) else None
    if there is None or there.samefile(folder):
        return None
    return there, compare(table, read_table(there / "table.csv"))
