"""From the words of a command to a plan and a model; every wrong word is a usage error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.cli.output import err
from bench.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from bench.config.suite import Code, Suite
    from bench.core.terminal import Terminal
    from bench.model.pipeline.inspect import BaseFiles
    from bench.model.text_to_image import TextToImage
    from bench.publish import Asked, Published
    from bench.run.plan import Plan
    from bench.run.runner import Outcome

__all__ = ["batch_of", "code_of", "computed", "device_of", "loaded", "planned", "published"]


def code_of(allowed: bool) -> Code:
    """Returns whose code a suite may run."""
    return "named" if allowed else "installed"


def device_of(name: str) -> str:
    """Returns the torch device of a name; ``auto`` is the GPU where there is one.

    Raises:
        UsageError: it is not usable here.
    """
    if name == "cpu":
        return name  # there always is one: torch need not be asked
    import torch

    if name != "auto":
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UsageError(
                f"--device {name!r}: not usable here ({str(error).splitlines()[0]})"
            ) from error
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def planned(
    source: str,
    only: tuple[str, ...],
    limit: int | None,
    seed: int | None,
    *,
    code: Code,
) -> tuple[BaseFiles, Plan, Asked]:
    """The base's files, the plan of a suite, and what was asked for; no network is loaded."""
    from bench.config.suite import load_suite
    from bench.model.pipeline.inspect import inspect_base
    from bench.publish import Asked
    from bench.run.plan import make_plan

    if limit is not None and limit < 1:
        raise UsageError(f"--limit: expected at least 1, got {limit}")
    suite: Suite = load_suite(source, code=code)
    other = None if seed == suite.seed else seed
    if other is not None:
        suite = suite.with_(seed=other)
    base = inspect_base(suite.base, revision=suite.revision)
    plan = make_plan(suite, base.digest, folder=base.folder, only=only, limit=limit)
    for warning in plan.warnings:
        err.print(f"warning: {warning}", soft_wrap=True)
    return base, plan, Asked(source, only, limit, other, code)


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


def computed(
    files: BaseFiles,
    plan: Plan,
    asked: Asked,
    store: Path,
    folder: Path | None,
    *,
    console: Terminal,
    device: str,
    batch_size: str,
    compiled: bool = False,
) -> tuple[Outcome, Published]:
    """Computes what the store lacks of a plan, and writes its report.

    Args:
        files: The base's.
        plan: What is computed.
        asked: How it was asked for; the page names the command.
        store: Where results are kept.
        folder: Where the report goes; ``None``: where :func:`bench.publish.place` says.
        console: Is told of progress.
        device: As the user named it.
        batch_size: Likewise.
        compiled: Whether the networks are compiled.

    Raises:
        UsageError: the report's folder holds something else; nothing is computed then.
    """
    from bench.cli.progress import watcher_for
    from bench.publish import place, publish
    from bench.report.place import check_place
    from bench.run.runner import run_plan
    from bench.run.store import Store

    check_place(folder or place(plan, asked), plan.suite.name)  # not after hours of work
    base = loaded(files, plan, device=device, batch_size=batch_size, compiled=compiled)
    ledger = Store(store)
    ledger.clean_tmp()
    watcher = watcher_for(console)
    try:
        outcome = run_plan(plan, ledger, base, watcher)
    finally:
        watcher.stop()
    return outcome, publish(plan, ledger, asked, folder=folder, outcome=outcome)


def loaded(
    files: BaseFiles, plan: Plan, *, device: str, batch_size: str, compiled: bool
) -> TextToImage:
    """The unedited model of a plan."""
    from bench.model.backbone import load_inspected
    from bench.model.batching import MicroBatch
    from bench.model.text_to_image import TextToImage

    where = device_of(device)
    micro = MicroBatch(batch_of(batch_size, where))
    backbone = load_inspected(files, dtype=plan.suite.dtype, device=where, compile=compiled)
    return TextToImage(backbone, micro=micro)


def batch_of(text: str, device: str) -> int:
    """Returns the number of images to work on at once.

    Raises:
        UsageError: the text is no such number.
    """
    if text == "auto":  # it shrinks by itself when memory runs out
        return 256 if device.startswith("cuda") else 64
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size: expected a number from 1 or auto, got {text!r}")
    return int(text)
