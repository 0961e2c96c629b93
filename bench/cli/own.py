"""The command for a model of one's own: evaluate."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bench.cli.output import err, out, print_json, rows_of
from bench.cli.words import STORE, Batch, Device, Extend, Json, Out, StoreArg

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["committed", "evaluate"]


def evaluate(
    what: Annotated[str, Parameter(help="A folder, a file, owner/name@commit of the hub, or module:Class.")], *,
    concepts: Annotated[
        tuple[str, ...], Parameter(name="--concept", negative="", help="What it should have lost; may be given often.")
    ] = (),
    suite: Annotated[str | None, Parameter(help="Whose protocol; by default the quick suite of the base.")] = None,
    base: Annotated[str | None, Parameter(help="What it was made from, where that is not the suite's base.")] = None,
    revision: Annotated[str | None, Parameter(help="The commit of a base from the hub.")] = None,
    device: Device = "auto", batch_size: Batch = "auto", extend: Extend = None,
    store: StoreArg = STORE, out_: Out = None, json_: Json = False,
) -> int:  # fmt: skip
    """Attacks one model of yours, its base and the controls, and prints a card: does the concept come back?"""
    from bench.api.own import own_suite
    from bench.cli.request import computed, extended_by
    from bench.model.pipeline.inspect import inspect_base
    from bench.publish import Asked
    from bench.run.loading import Runtime
    from bench.run.plan import make_plan
    from bench.tables.card import card_lines, console_card
    from bench.tables.flags_said import console_flags

    own = own_suite(what, concepts, suite=suite, base=base, revision=revision)
    files = inspect_base(own.suite.base, commit=own.suite.revision)
    plan = make_plan(own.suite, files.digest, folder=files.folder)
    for warning in plan.warnings:
        err.print(f"warning: {warning}", soft_wrap=True)
    words = ["tvc-bench", "evaluate", what, *(w for name in concepts for w in ("--concept", name))]
    for option, value in (("--suite", suite), ("--base", base), ("--revision", revision)):
        words += [option, value] if value is not None else []
    asked = Asked(own.suite.name, said=shlex.join(words))
    outcome, done = computed(
        files, plan, asked, store, out_, console=err, runtime=Runtime(device, batch_size),
        extended=extended_by(extend, plan),
    )  # fmt: skip
    if done is None:
        raise RuntimeError("expected a report: no share was asked for")
    published, source = committed(own.of)
    if json_:
        print_json(
            {
                "suite": own.suite.name,
                "protocol": own.of,
                "out": str(done.folder),
                "card": rows_of(card_lines(done.worst, own.label)),
                "worst": rows_of(done.worst),
                "flags": rows_of(done.flags),
                "published": rows_of(published),
                **outcome.as_json(),
            }
        )
    else:
        out.print(console_card(done.worst, own.label, published, source))
        out.print(console_flags(done.flags, list(done.table["method"].unique())))
        out.print(f"report: {done.folder / 'index.html'}", soft_wrap=True)
        for title, message in outcome.failed:
            out.print(f"failed: {title}: {message}", soft_wrap=True)
    return 1 if outcome.failed or done.found.errors else 0


def committed(suite: str) -> tuple[pd.DataFrame, str]:
    """The worst cases of the committed results of a suite, and where they lie; none where there are none."""
    from bench.core.shipped import results_folder
    from bench.tables.frames import read_table
    from bench.tables.schema import WORST, SchemaError, conform

    folder = results_folder(suite)
    if folder is None:
        return WORST.empty(), f"{suite} has none"
    try:
        return conform(read_table(folder / "worst.csv"), WORST), str(folder)
    except (OSError, SchemaError, ValueError) as error:
        return WORST.empty(), f"{folder / 'worst.csv'}: {error}"
