"""Commands on a suite: plan, run, report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.cli.output import compared_of, err, out, print_json, rows_of, show
from bench.cli.request import Spread, code_of, computed, extended_by, planned, published
from bench.cli.words import (
    STORE,
    AllowCode,
    BaseArg,
    Batch,
    Compile,
    Device,
    Estimate,
    Extend,
    Json,
    KernelWords,
    Limit,
    Only,
    Out,
    PerGpu,
    Publish,
    Ray,
    Seed,
    Shard,
    StoreArg,
    SuiteArg,
    Workers,
)
from bench.core.errors import UsageError
from bench.extend.rest import rest_of
from bench.run.loading import Runtime

if TYPE_CHECKING:
    from bench.run.watching import Outcome

__all__ = ["plan", "report", "run"]


def plan(suite: SuiteArg = "mini-quick", *, only: Only = (), limit: Limit = None, seed: Seed = None,
         base: BaseArg = None, extend: Extend = None, estimate: Estimate = False, workers: Workers = None,
         allow_code: AllowCode = False, store: StoreArg = STORE, json_: Json = False) -> int:  # fmt: skip
    """Shows what a run would compute, and what the store already holds."""
    from bench.run.store import Store

    number = Spread(workers).number or 1
    if workers is not None and not estimate:
        raise UsageError("plan --workers: expected --estimate beside it, got none")
    _, made, asked = planned(suite, only, limit, seed, code=code_of(allow_code), other_base=base)
    ledger = Store(store)
    extended = extended_by(extend, made)
    rest = rest_of(made, extended)
    if estimate:
        from bench.cli.hours import told

        return told(rest, ledger, asked, workers=number, json_=json_)
    left = {c.digest for c in rest.cells}
    cells = [
        {
            "kind": c.kind,
            "digest": c.digest,
            "title": c.title,
            "done": c.digest not in left or ledger.find(c.kind, c.digest) is not None,
            "taken": c.digest not in left,
        }
        for c in made.cells
    ]
    done = sum(bool(c["done"]) for c in cells)
    if json_:
        print_json(
            {
                "suite": made.suite.name,
                "partial": made.partial,
                "warnings": made.warnings,
                "cells": cells,
                "done": done,
            }
        )
    else:
        lines = [
            f"{'done' if c['done'] else 'todo'}  {str(c['digest'])[:12]}  {c['title']}"
            for c in cells
        ]
        # Printed in one go: a call per cell takes seconds for ten thousand.
        there = "in the store" if extended is None else f"in the store or in {extend}"
        text = "\n".join([*lines, f"{len(cells)} cells, {done} {there}"])
        out.print(text, soft_wrap=True)
    return 0


def run(suite: SuiteArg = "mini-quick", *, only: Only = (), limit: Limit = None, seed: Seed = None,
        base: BaseArg = None, device: Device = "auto", batch_size: Batch = "auto", compile_: Compile = False,
        kernels: KernelWords = "auto", extend: Extend = None,
        workers: Workers = None, ray: Ray = None, per_gpu: PerGpu = 1, shard: Shard = None,
        allow_code: AllowCode = False,
        store: StoreArg = STORE, out_: Out = None, publish_: Publish = False,
        json_: Json = False) -> int:  # fmt: skip
    """Computes what the store does not hold yet, writes the report and prints the table."""
    files, made, asked = planned(
        suite, only, limit, seed, code=code_of(allow_code), other_base=base
    )
    outcome, done = computed(
        files, made, asked, store, published(made, asked, out_, publish_), console=err if json_ else out,
        runtime=Runtime(device, batch_size, compile_, kernels),
        spread=Spread(workers, ray, per_gpu, shard), extended=extended_by(extend, made),
    )  # fmt: skip
    if done is None:
        return _share_told(made.suite.name, str(shard), outcome, json_=json_)
    if json_:
        print_json(
            {
                "suite": made.suite.name,
                "out": str(done.folder),
                **outcome.as_json(),
                "errors": done.found.errors,
                "table": rows_of(done.table),
                "flags": rows_of(done.flags),
                "worst": rows_of(done.worst),
                "compared": compared_of(done),
            }
        )
    else:
        show(done)
        out.print(
            f"\n{outcome.computed} cells computed, {outcome.cached} from the store, {len(outcome.failed)} failed"
            f"{f', {len(outcome.blocked)} blocked' if outcome.blocked else ''}; "
            f"{outcome.seconds:.1f} s, of which {100 * outcome.overhead:.1f} % outside the models' own compute",
            soft_wrap=True,
        )  # fmt: skip
        _outcome_told(outcome)
    return 1 if outcome.failed or done.found.errors else 0


def _share_told(suite: str, shard: str, outcome: Outcome, *, json_: bool) -> int:
    """Says what a share has done that does not write the report; returns the exit code."""
    if json_:
        about = {"suite": suite, "shard": shard, "out": None, "elsewhere": outcome.elsewhere}
        print_json({**about, **outcome.as_json()})
    else:
        left = "another process writes the report"
        if outcome.elsewhere:
            left = f"{outcome.elsewhere} cells are left to the others"
        out.print(
            f"share {shard}: {outcome.computed} cells computed, {outcome.cached} from the store, "
            f"{len(outcome.failed)} failed; {outcome.seconds:.1f} s; {left}. The last share that is done "
            "writes the report; `tvc-bench report` does so at any time",
            soft_wrap=True,
        )
        _outcome_told(outcome)
    return 1 if outcome.failed else 0


def _outcome_told(outcome: Outcome) -> None:
    for title, message in outcome.failed:
        out.print(f"failed: {title}: {message}", soft_wrap=True)
    for line in outcome.set_aside:
        out.print(f"damaged, set aside and computed again: {line}", soft_wrap=True)


def report(suite: SuiteArg = "mini-quick", *, only: Only = (), limit: Limit = None, seed: Seed = None,
           base: BaseArg = None, extend: Extend = None, allow_code: AllowCode = False,
        store: StoreArg = STORE, out_: Out = None, publish_: Publish = False,
        json_: Json = False) -> int:  # fmt: skip
    """Writes the report again from the store; computes nothing."""
    from bench.publish import publish
    from bench.run.store import Store

    _, made, asked = planned(suite, only, limit, seed, code=code_of(allow_code), other_base=base)
    done = publish(
        made, Store(store), asked, folder=published(made, asked, out_, publish_),
        extended=extended_by(extend, made),
    )  # fmt: skip
    if json_:
        print_json(
            {
                "suite": made.suite.name,
                "out": str(done.folder),
                "missing": done.found.missing,
                "errors": done.found.errors,
                "table": rows_of(done.table),
                "flags": rows_of(done.flags),
                "worst": rows_of(done.worst),
                "compared": compared_of(done),
            }
        )
    else:
        show(done)
    return 1 if done.found.failed or done.found.errors else 0
