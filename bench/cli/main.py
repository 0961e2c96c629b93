"""The command line: plan, run, report, ls, verify, perf; ``mini`` makes and checks the miniature.

Exit codes: 0 all is well, 1 some cells failed or something is damaged, 2 the request was wrong or the
place is unfit (a full disk, missing rights), 130 interrupted. A closed pipe changes neither the work nor
the code: `tvc-bench run | head -1` computes everything and writes the report.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bench.cli.listing import Listed, listing
from bench.cli.output import err, out, print_json, rows_of, show
from bench.cli.request import code_of, device_of, loaded, planned
from bench.core.digest import StoreError
from bench.core.environment import line
from bench.core.errors import UsageError, shown
from bench.core.files import regular
from bench.core.streams import Lost, patient
from bench.core.terminal import PlainFormatter

__all__ = ["app", "main"]

app = App(
    name="tvc-bench",
    help="Adversarial robustness benchmark for concept erasure in text-to-image diffusion models.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # main says how to go on
    console=out,
    error_console=err,
)

SuiteArg = Annotated[str, Parameter(help="A shipped suite (see `ls suites`) or a YAML file.")]
Only = Annotated[
    tuple[str, ...],
    Parameter(
        name="--only",
        help="Keep methods, attacks or concepts that match the glob; may be given often.",
        negative="",
    ),
]
Limit = Annotated[
    int | None, Parameter(help="At most so many prompts a set; the result is marked partial.")
]
Seed = Annotated[
    int | None, Parameter(help="Overrides the suite's seed; the result goes to results/drafts.")
]
StoreArg = Annotated[Path, Parameter(name="--store", help="Where results are kept.")]
Out = Annotated[
    Path | None,
    Parameter(
        name="--out",
        help="Where the report goes: an empty folder, or one with an earlier report of the suite. Default "
        "results/local/<suite>, or results/drafts/<suite> if partial, of another seed, or of your own file "
        "that has the name of a shipped suite.",
    ),
]
AllowCode = Annotated[
    bool,
    Parameter(
        name="--allow-code",
        negative="",
        help="Let your suite file run the code that it names by module:Class; give it only to files you trust.",
    ),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for machines.")]
Device = Annotated[str, Parameter(help="A torch device: cpu, cuda, cuda:1, ...")]
Batch = Annotated[
    str, Parameter(name="--batch-size", help="Images worked on at once: a number, or auto.")
]

Compile = Annotated[
    bool,
    Parameter(
        name="--compile",
        negative="",
        help="Compile the networks: minutes at first, then faster, with results that differ by rounding. "
        "For long runs on a GPU.",
    ),
]

_STORE = Path(".store")


@app.command
def plan(suite: SuiteArg = "mini-quick", *, only: Only = (), limit: Limit = None, seed: Seed = None,
         allow_code: AllowCode = False, store: StoreArg = _STORE, json_: Json = False) -> int:  # fmt: skip
    """Shows what a run would compute, and what the store already holds."""
    from bench.run.store import Store

    _, made, _ = planned(suite, only, limit, seed, code=code_of(allow_code))
    ledger = Store(store)
    cells = [
        {
            "kind": c.kind,
            "digest": c.digest,
            "title": c.title,
            "done": ledger.find(c.kind, c.digest) is not None,
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
        text = "\n".join([*lines, f"{len(cells)} cells, {done} in the store"])
        out.print(text, soft_wrap=True)
    return 0


@app.command
def run(suite: SuiteArg = "mini-quick", *, only: Only = (), limit: Limit = None, seed: Seed = None,
        device: Device = "auto", batch_size: Batch = "auto", compile_: Compile = False,
        allow_code: AllowCode = False,
        store: StoreArg = _STORE, out_: Out = None, json_: Json = False) -> int:  # fmt: skip
    """Computes what the store does not hold yet, writes the report and prints the table."""
    from bench.cli.progress import watcher_for
    from bench.publish import place, publish
    from bench.report.place import check_place
    from bench.run.runner import run_plan
    from bench.run.store import Store

    files, made, asked = planned(suite, only, limit, seed, code=code_of(allow_code))
    check_place(out_ or place(made, asked), made.suite.name)  # not after hours of work
    base = loaded(files, made, device=device, batch_size=batch_size, compiled=compile_)
    ledger = Store(store)
    ledger.clean_tmp()
    watcher = watcher_for(err if json_ else out)
    try:
        outcome = run_plan(made, ledger, base, watcher)
    finally:
        watcher.stop()
    done = publish(made, ledger, asked, folder=out_, outcome=outcome)
    if json_:
        print_json(
            {
                "suite": made.suite.name,
                "out": str(done.folder),
                **outcome.as_json(),
                "errors": done.found.errors,
                "table": rows_of(done.table),
                "flags": rows_of(done.flags),
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
        for title, message in outcome.failed:
            out.print(f"failed: {title}: {message}", soft_wrap=True)
        for line in outcome.set_aside:
            out.print(f"damaged, set aside and computed again: {line}", soft_wrap=True)
    return 1 if outcome.failed or done.found.errors else 0


@app.command
def report(suite: SuiteArg = "mini-quick", *, only: Only = (), limit: Limit = None, seed: Seed = None,
           allow_code: AllowCode = False,
        store: StoreArg = _STORE, out_: Out = None, json_: Json = False) -> int:  # fmt: skip
    """Writes the report again from the store; computes nothing."""
    from bench.publish import publish
    from bench.run.store import Store

    _, made, asked = planned(suite, only, limit, seed, code=code_of(allow_code))
    done = publish(made, Store(store), asked, folder=out_)
    if json_:
        print_json(
            {
                "suite": made.suite.name,
                "out": str(done.folder),
                "missing": done.found.missing,
                "errors": done.found.errors,
                "table": rows_of(done.table),
                "flags": rows_of(done.flags),
            }
        )
    else:
        show(done)
    return 1 if done.found.failed or done.found.errors else 0


@app.command
def ls(what: Listed = "methods", *, store: StoreArg = _STORE, json_: Json = False) -> int:
    """Lists what there is."""
    rows = listing(what, store)
    if json_:
        print_json(rows)
    else:
        width = max((len(r["name"]) for r in rows), default=0)
        for row in rows:
            out.print(
                f"{row['name']:{width}}  {row['about']}",
                soft_wrap=True,
            )
    return 0


@app.command
def verify(*, store: StoreArg = _STORE, json_: Json = False) -> int:
    """Checks every file of the store against its hash; moves nothing."""
    from bench.run.store import Store

    if not store.is_dir():
        raise UsageError(f"--store {store}: no such folder; run a suite first")
    ledger = Store(store)
    damage = ledger.verify()
    entries = ledger.count() - sum(d.attempt is None for d in damage)
    if json_:
        print_json(
            {
                "entries": entries,
                "damaged": [
                    {"kind": d.kind, "digest": d.digest, "reason": d.reason} for d in damage
                ],
            }
        )
    else:
        for d in damage:
            what = "" if d.attempt is None else f"failed attempt {d.attempt}: "
            told = f"damaged: {d.kind} {d.digest}: {what}{d.reason}"
            out.print(told, soft_wrap=True)
        out.print(f"{entries} sound entries, {len(damage)} damaged")
    return 1 if damage else 0


@app.command
def paper(suite: str = "mini-claims", *,
          concepts: Annotated[tuple[str, ...], Parameter(name="--concept", negative="")] = (),
          claims: Annotated[tuple[str, ...], Parameter(name="--claim", negative="")] = (),
          seeds: Annotated[int | None, Parameter(help="Training seeds; by default the suite's repeats.")] = None,
          out_: Annotated[Path, Parameter(name="--out")] = Path("results/paper"), work: Path = Path(".paper"),
          quick: Annotated[bool, Parameter(help="Tiny: does everything run? The figures mean nothing.")] = False,
          device: Device = "auto") -> int:  # fmt: skip
    """Measures the claims of the Task Vectors paper on a suite's base and concepts; goes on where it was stopped."""
    from tvc.paper.run import on_a_suite

    logging.getLogger("tvc").setLevel(logging.INFO)
    for path in on_a_suite(
        suite, claims, work=work, out=out_, concepts=concepts, seeds=seeds, quick=quick, device=device_of(device)
    ):  # fmt: skip
        out.print(str(path), soft_wrap=True)
    return 0


@app.command
def perf(*, models: Annotated[tuple[str, ...], Parameter(name="--model", negative="", help="miniature or sd14; both by "
         "default, sd14 on a GPU only.")] = (), parts: Annotated[tuple[str, ...], Parameter(name="--part", negative="",
         help="utilisation, throughput, breakdown or compilation; all by default. What the folder holds of the same "
         "machine and commit is kept.")] = (), out_: Annotated[Path | None, Parameter(name="--out")] = None,
         compile_seconds: Annotated[float | None, Parameter(help="Limit of all compilations; 0 tries none.")] = None,
         quick: Annotated[bool, Parameter(help="Tiny: does everything run? The figures mean nothing.")] = False,
         device: Device = "auto", json_: Json = False) -> int:  # fmt: skip
    """Measures the speed and memory of attacks: batched, one by one, and where the difference comes from."""
    from bench.perf.run import measure_speed

    logging.getLogger("bench").setLevel(logging.INFO)
    folder, found = measure_speed(
        device_of(device), out=out_, models=models, parts=parts, quick=quick, compile_seconds=compile_seconds
    )  # fmt: skip
    if json_:
        print_json(found)
    else:
        out.print((folder / "README.md").read_text(), soft_wrap=True)
    return 0


mini = App(name="mini", help="The miniature: a small, real diffusion model of a drawn world.")
app.command(mini)


@mini.command
def train(*, work: Path = Path(".train"), out_: Annotated[Path | None, Parameter(name="--out")] = None, seed: int = 0,
          device: Device = "auto") -> int:  # fmt: skip
    """Rebuilds the miniature from a seed; resumes where it was stopped."""
    from bench.core.shipped import model_folder
    from bench.mini.train.build import build

    logging.getLogger("bench").setLevel(logging.INFO)
    build(work, out_ or model_folder(), seed=seed, device=device_of(device))
    return 0


@mini.command
def check(*, folder: Path | None = None, json_: Json = False, device: Device = "auto", quick: Annotated[
    int | None, Parameter(help="Use so many captions and renders instead of the full numbers.")] = None,
          card: Annotated[Path | None, Parameter(help="Write the model card too, with the notes in this file.")] = None,
          ) -> int:  # fmt: skip
    """Measures the miniature against its bars and its cost."""
    from bench.core.shipped import model_folder
    from bench.mini.card import write_card
    from bench.mini.check import check_model
    from bench.mini.check import show as show_check

    folder = folder or model_folder()
    notes = "" if card is None else regular(card).read_text(encoding="utf-8")  # not after the work
    found = check_model(folder, device=device_of(device), scale=quick)
    if card is not None:
        write_card(folder, found, notes)
    if json_:
        print_json(found)
    else:
        show_check(found, out)
    return 0 if all(row["met"] for row in found["bars"]) else 1


def _keep_heap() -> None:
    """Tells glibc to keep freed memory: faulting it in again at every layer costs a quarter of the time."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 64 * 2**20)
    except (OSError, AttributeError):
        return


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``tvc-bench``; ends the process with the exit code."""
    for name, value in (
        ("HF_HUB_DISABLE_TELEMETRY", "1"),
        ("DO_NOT_TRACK", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    _keep_heap()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(asctime)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for noisy in ("diffusers", "transformers", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        with patient():
            code = _told(arguments)
    except Lost as error:  # the work is done all the same
        err.print(f"error: {error}; the work is done all the same", soft_wrap=True)
        raise SystemExit(2) from None
    except OSError as error:  # not even the standard streams could be looked after
        err.print(f"error: {line(error)}", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
    raise SystemExit(code)


def _told(arguments: list[str] | None) -> int:
    """Runs a command; an error that the user can mend is one line. Returns the exit code."""
    try:
        for word in sys.argv[1:] if arguments is None else arguments:
            if not word.isprintable() and any("\udc80" <= c <= "\udcff" for c in word):
                raise UsageError(f"expected words in UTF-8, got {shown(word)}; rename it")
        return app(arguments, result_action="return_value", exit_on_error=True) or 0
    except (UsageError, StoreError) as error:
        said, code = f"error: {error}", 2
    except OSError as error:
        said, code = f"error: {line(error)}", 2
    except KeyboardInterrupt:
        said, code = "interrupted; run the same command to go on", 130
    err.print(said, soft_wrap=True)
    return code
