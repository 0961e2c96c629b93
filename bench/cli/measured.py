"""Commands that measure: paper, a paper's claims; perf, speed and memory; validity, what a miniature predicts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.cli.output import out, print_json
from bench.cli.request import device_of
from bench.cli.words import Device, Json

__all__ = ["paper", "perf", "validity"]


def paper(suite: str = "mini-claims", *,
          concepts: Annotated[tuple[str, ...], Parameter(name="--concept", negative="")] = (),
          claims: Annotated[tuple[str, ...], Parameter(name="--claim", negative="")] = (),
          seeds: Annotated[int | None, Parameter(help="Training seeds; by default the suite's repeats.")] = None,
          out_: Annotated[Path, Parameter(name="--out")] = Path("results/paper"), work: Path = Path(".paper"),
          minutes: Annotated[float | None, Parameter(help="So long it measures; the same command goes on.")] = None,
          quick: Annotated[bool, Parameter(help="Tiny: does everything run? The figures mean nothing.")] = False,
          device: Device = "auto") -> int:  # fmt: skip
    """Measures the claims of the Task Vectors paper on a suite's base and concepts; goes on where it was stopped."""
    from tvc.paper.pieces import OutOfTime
    from tvc.paper.run import on_a_suite

    logging.getLogger("tvc").setLevel(logging.INFO)
    try:
        written = on_a_suite(
            suite, claims, work=work, out=out_, minutes=minutes, concepts=concepts, seeds=seeds, quick=quick,
            device=device_of(device),
        )  # fmt: skip
    except OutOfTime as at:
        out.print(f"{minutes:g} minutes are over ({at}); the same command goes on", soft_wrap=True)
        return 1
    for path in written:
        out.print(str(path), soft_wrap=True)
    return 0


def perf(*, models: Annotated[tuple[str, ...], Parameter(name="--model", negative="", help="miniature or sd14; both by "
         "default, sd14 on a GPU only.")] = (), parts: Annotated[tuple[str, ...], Parameter(name="--part", negative="",
         help="utilisation, kernels, throughput, compilation or breakdown; all by default, in this order. "
         "What the folder holds of the same machine and commit is kept.")] = (),
         out_: Annotated[Path | None, Parameter(name="--out")] = None,
         compile_seconds: Annotated[float | None, Parameter(help="Limit of all compilations; 0 tries none.")] = None,
         minutes: Annotated[float | None, Parameter(help="No row begins later, and no part goes on for more than four "
         "of them. Without it there is no limit.")] = None,
         quick: Annotated[bool, Parameter(help="Tiny: does everything run? The figures mean nothing.")] = False,
         device: Device = "auto", json_: Json = False) -> int:  # fmt: skip
    """Measures the speed and memory of attacks: batched, one by one, and where the difference comes from."""
    from bench.perf.run import measure_speed

    logging.getLogger("bench").setLevel(logging.INFO)
    folder, found = measure_speed(
        device_of(device), out=out_, models=models, parts=parts, quick=quick, compile_seconds=compile_seconds,
        minutes=minutes,
    )  # fmt: skip
    if json_:
        print_json(found)
    else:
        out.print((folder / "README.md").read_text(), soft_wrap=True)
    return 0


def validity(*runs: Path, published: Path = Path("results/validity/published.csv"),
             out_: Annotated[Path, Parameter(name="--out")] = Path("results/validity"),
             page: Path = Path("docs/validity.md")) -> int:  # fmt: skip
    """Compares runs on miniatures with published results on Stable Diffusion, by rank correlation.

    Each run is the folder of a report; without any, it is the committed mini-full.
    """
    from bench.core.errors import UsageError
    from bench.core.pages import kept_in
    from bench.core.shipped import results_folder
    from bench.report.style import save
    from bench.tables.spreadsheet import as_csv
    from bench.validity.compare import compared
    from bench.validity.figure import forest
    from bench.validity.page import ceilings, every_pair, every_ranking, medians, read_run
    from bench.validity.published import between_tables, rankings, read_published

    kept_in(page, "validity", "")  # not after the work
    committed = results_folder("mini-full")
    tables = [read_run(run) for run in runs or ([committed] if committed else [])]
    asked = list(rankings(read_published(published)))
    between = list(between_tables(asked))
    found = [one for table in tables for one in compared(table, asked)]
    if not found:
        raise UsageError(
            "expected runs that share five methods with a published table, got none; name a report's folder"
        )
    out_.mkdir(parents=True, exist_ok=True)
    (out_ / "rankings.csv").write_bytes(as_csv(every_ranking(found), digits=None))
    (out_ / "pairs.csv").write_bytes(as_csv(every_pair(found), digits=None))
    most = {name: rho for name, (rho, _) in ceilings(between).items()}
    save(forest(found, most), out_ / "ranks.png")
    made = medians(found, between)
    page.write_text(kept_in(page, "validity", made), encoding="utf-8")
    out.print(made, markup=False, highlight=False, soft_wrap=True)
    return 0
