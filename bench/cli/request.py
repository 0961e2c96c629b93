"""From the words of a command to a plan and a model; every wrong word is a usage error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.cli.output import err
from bench.core.errors import UsageError
from bench.extend.rest import rest_of
from bench.model.kernels.choice import asked_for
from bench.run.loading import Runtime, batch_of, device_of, load_base

if TYPE_CHECKING:
    from pathlib import Path

    from bench.config.suite import Code, Suite
    from bench.core.terminal import Terminal
    from bench.extend.extension import Extension
    from bench.model.pipeline.inspect import BaseFiles
    from bench.publish import Asked, Published
    from bench.run.chains import Share
    from bench.run.executor import Executor
    from bench.run.plan import Plan
    from bench.run.store import Store
    from bench.run.watching import Outcome

__all__ = [
    "Spread",
    "batch_of",
    "code_of",
    "computed",
    "device_of",
    "extended_by",
    "planned",
    "published",
]


def code_of(allowed: bool) -> Code:
    """Returns whose code a suite may run."""
    return "named" if allowed else "installed"


def planned(
    source: str,
    only: tuple[str, ...],
    limit: int | None,
    seed: int | None,
    *,
    code: Code,
    other_base: str | None = None,
) -> tuple[BaseFiles, Plan, Asked]:
    """The base's files, the plan of a suite, and what was asked for; no network is loaded."""
    from bench.config.suite import load_suite
    from bench.model.pipeline.inspect import inspect_base
    from bench.publish import Asked
    from bench.run.plan import make_plan

    if limit is not None and limit < 1:
        raise UsageError(f"--limit: expected at least 1, got {limit}")
    suite: Suite = load_suite(source, code=code, base=other_base)
    other = None if seed == suite.seed else seed
    if other is not None:
        suite = suite.with_(seed=other)
    base = inspect_base(suite.base, commit=suite.revision)
    plan = make_plan(suite, base.digest, folder=base.folder, only=only, limit=limit)
    for warning in plan.warnings:
        err.print(f"warning: {warning}", soft_wrap=True)
    return base, plan, Asked(source, only, limit, other, code, base=other_base)


def extended_by(folder: Path | None, plan: Plan) -> Extension | None:
    """The lines of a plan that a published report has; ``None`` where none was named.

    Raises:
        UsageError: it is no final report, or has no line of the plan.
    """
    if folder is None:
        return None
    from bench.extend.extension import extension

    found = extension(plan, folder)
    err.print(found.told, soft_wrap=True)
    return found


def published(plan: Plan, asked: Asked, folder: Path | None, committed: bool) -> Path | None:
    """The folder that a report is asked for; ``None``: that which it has by itself.

    Raises:
        UsageError: both a folder and the committed one are asked for, or the latter is of something else.
    """
    from bench.publish import committed_place

    if not committed:
        return folder
    if folder is not None:
        raise UsageError("expected --out or --publish, got both; leave one out")
    return committed_place(plan, asked)


@dataclass(frozen=True, slots=True)
class Spread:
    """How a run is spread, as the user said it; by default it is not.

    Attributes:
        workers: How many, or ``auto``; ``None``: nobody said.
        ray: The address of a cluster.
        per_gpu: Workers on each GPU.
        shard: One share of several, such as ``2/8``.
    """

    workers: str | None = None
    ray: str | None = None
    per_gpu: int = 1
    shard: str | None = None

    @property
    def share(self) -> Share | None:
        """The share that is computed; ``None``: the whole.

        Raises:
            UsageError: the text names none.
        """
        from bench.run.chains import Share

        return None if self.shard is None else Share.read(self.shard)

    @property
    def number(self) -> int | None:
        """How many workers there are; ``None``: as many as the machines have room for.

        Raises:
            UsageError: the text is no such number.
        """
        if self.workers is None or self.workers == "auto":
            return None
        if not self.workers.isdecimal() or not 1 <= int(self.workers) <= 10_000:
            raise UsageError(f"--workers: expected a number from 1 or auto, got {self.workers!r}")
        return int(self.workers)


def computed(
    files: BaseFiles,
    plan: Plan,
    asked: Asked,
    store: Path,
    folder: Path | None,
    *,
    console: Terminal,
    runtime: Runtime,
    spread: Spread = Spread(),
    extended: Extension | None = None,
) -> tuple[Outcome, Published | None]:
    """Computes what the store lacks of a plan, and writes its report.

    Args:
        files: The base's.
        plan: What is computed.
        asked: How it was asked for; the page names the command.
        store: Where results are kept.
        folder: Where the report goes; ``None``: where :func:`bench.publish.place` says.
        console: Is told of progress.
        runtime: How the networks are computed.
        spread: Over how many workers, and which share of the plan.
        extended: The lines that are taken from a published report, and the rest, which is computed.

    Returns:
        What was done, and the report; ``None`` for a share, while others are not done or where another
        process writes the report.

    Raises:
        UsageError: the report's folder holds something else, or the work cannot be spread so; nothing is
            computed then.
    """
    from bench.cli.progress import watcher_for
    from bench.publish import place
    from bench.report.place import check_place
    from bench.run.store import Store

    share = spread.share
    check_place(folder or place(plan, asked), plan.suite.name)  # not after hours of work
    executor = _executor(files, plan, asked, spread, runtime)
    ledger = Store(store)
    ledger.clean_tmp()
    watcher = watcher_for(console)
    try:
        outcome = executor.run(rest_of(plan, extended), ledger, watcher, share=share)
    finally:
        watcher.stop()
    return outcome, _reported(plan, ledger, asked, folder, outcome, share, extended)


def _executor(
    files: BaseFiles, plan: Plan, asked: Asked, spread: Spread, runtime: Runtime
) -> Executor:
    """Who computes the cells: this process, or workers on Ray if any were asked for."""
    if not 1 <= spread.per_gpu <= 100:
        raise UsageError(f"--per-gpu: expected a number from 1 to 100, got {spread.per_gpu}")
    if spread.workers is None and spread.ray is None:
        from bench.run.executor import Inline

        if spread.per_gpu != 1:
            raise UsageError("--per-gpu: expected --workers or --ray beside it, got neither")
        return Inline(load_base(files, plan.suite.dtype, runtime))
    from bench.run.on_ray import OnRay

    batch_of(runtime.batch_size, "cpu")  # a wrong word is told before anything starts
    asked_for(runtime.kernels)
    return OnRay(
        workers=spread.number, address=spread.ray, per_gpu=spread.per_gpu,
        only=asked.only, limit=asked.limit, runtime=runtime,
    )  # fmt: skip


def _reported(
    plan: Plan,
    ledger: Store,
    asked: Asked,
    folder: Path | None,
    outcome: Outcome,
    share: Share | None,
    extended: Extension | None,
) -> Published | None:
    """Writes the report; of a share, if nothing is left to others and nobody else is writing it."""
    from bench.publish import publish
    from bench.run.survey import left, survey

    if share is None:
        return publish(plan, ledger, asked, folder=folder, outcome=outcome, extended=extended)
    rest = rest_of(plan, extended)
    outcome.elsewhere = len(left(rest, ledger))
    claim = None if outcome.elsewhere else ledger.claim("report", plan.suite_digest)
    if claim is None:
        return None
    with claim:
        survey(rest, ledger).retention(rest, ledger)  # drops what no share needs any more
        return publish(plan, ledger, asked, folder=folder, outcome=outcome, extended=extended)
