"""Commands on suites of real bases: rehearse tries one out, protocols keeps the table of the shipped ones."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bench.cli.output import err, out, print_json
from bench.cli.request import code_of
from bench.cli.words import AllowCode, BaseArg, Batch, Device, Json, Only, SuiteArg
from bench.core.errors import UsageError
from bench.model.families.family import Dtype
from bench.run.loading import Runtime

if TYPE_CHECKING:
    from bench.rehearse.rehearsal import Rehearsal

__all__ = ["protocols", "rehearse"]

RealSize = Annotated[
    bool,
    Parameter(
        name="--real-size",
        negative="",
        help="Random weights in the real configuration, for memory and hours; for a GPU. Default: tiny networks.",
    ),
]
Precision = Annotated[
    Dtype | None,
    Parameter(
        name="--dtype", help="In place of the suite's: a CPU that mimics bfloat16 is slow in it."
    ),
]
Folder = Annotated[
    Path | None,
    Parameter(
        name="--out",
        help="Keep the stand-ins, the store and the report in this empty folder. Default: one that is removed.",
    ),
]


def rehearse(suite: SuiteArg, *, real_size: RealSize = False, only: Only = (), out_: Folder = None,
             base: BaseArg = None, device: Device = "auto", batch_size: Batch = "auto", dtype: Precision = None,
             allow_code: AllowCode = False, json_: Json = False) -> int:  # fmt: skip
    """Tries every kind of cell of a suite with random weights, so that a long run fails now and not tomorrow."""
    from bench.cli.progress import watcher_for
    from bench.rehearse.rehearsal import rehearse as tried

    with ExitStack() as kept:
        if out_ is None:
            folder = Path(kept.enter_context(TemporaryDirectory(prefix="tvc-bench-rehearsal-")))
        else:
            folder = _empty(out_)
        watcher = watcher_for(err if json_ else out)
        try:
            found = tried(
                suite, folder, real_size=real_size, only=only, runtime=Runtime(device, batch_size),
                dtype=dtype, code=code_of(allow_code), base=base, watcher=watcher,
            )  # fmt: skip
        finally:
            watcher.stop()
    if json_:
        print_json(_as_json(found))
    else:
        _show(found, suite)
    return 0 if found.passed else 1


def protocols(*, page: Path = Path("docs/protocols.md")) -> int:
    """Writes the table of the shipped protocols into a page, from the suites as they are."""
    from bench.core.pages import kept_in
    from bench.rehearse.protocols import COMMAND, table

    page.write_text(kept_in(page, COMMAND, table()), encoding="utf-8")
    return 0


def _empty(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out: expected an empty folder, got {folder}; name another")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _show(found: Rehearsal, suite: str) -> None:
    from bench.cli.hours import time_of

    for case in found.cases:
        took = (
            f"{case.cells} cells, {case.seconds:.1f} s, {case.peak_mb:.0f} MiB"
            if case.seconds
            else ""
        )
        out.print(f"{case.fate:9}  {case.stage:9}  {case.of}  {took}".rstrip(), soft_wrap=True)
    for line in found.notes:
        out.print(f"note: {line}", soft_wrap=True)
    for line in found.failures:
        out.print(f"failed: {line}", soft_wrap=True)
    hours = found.hours
    if hours is None:
        out.print(
            f"the whole suite has {found.whole} cells; tiny networks say nothing of its hours: "
            "--real-size measures them",
            soft_wrap=True,
        )
    else:
        left_out = "".join(
            f"; {n} cells of {kind} are not counted" for kind, n in hours.unknown.items()
        )
        out.print(
            f"the whole suite has {found.whole} cells: at least {time_of(hours.total)} on {hours.device}, by images "
            f"and gradient steps times what one took here; judges and metrics come on top{left_out}",
            soft_wrap=True,
        )
    verdict = "passed" if found.passed else f"failed ({len(found.failures)})"
    out.print(
        f"rehearsal of {suite}: {verdict} in {found.seconds:.0f} s; what it measured means nothing",
        soft_wrap=True,
    )


def _as_json(found: Rehearsal) -> dict[str, Any]:
    hours = found.hours
    return {
        "suite": found.suite,
        "passed": found.passed,
        "kinds": [
            {"stage": k.stage, "of": k.of, "fate": k.fate, "cells": k.cells, "seconds": round(k.seconds, 3),
             "peak_memory_mb": round(k.peak_mb, 1)}
            for k in found.cases
        ],
        "failures": list(found.failures),
        "notes": list(found.notes),
        "cells_of_the_whole": found.whole,
        "hours": None if hours is None else {kind: s / 3600 for kind, s in hours.seconds.items()},
        "hours_without": None if hours is None else dict(hours.unknown),
        "seconds": round(found.seconds, 3),
    }  # fmt: skip
