"""The pin: moving code leaves the identity of every cell, and every byte that is derived from rows.

`results/mini-quick` is the pin: whoever changes what is computed on purpose makes it again.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.config.suite import load_suite
from bench.model.pipeline.inspect import inspect_base
from bench.run.plan import make_plan
from bench.tables.flags import flag
from bench.tables.schema import EDITS, TRIALS, UTILITY, conform
from bench.tables.spreadsheet import as_csv
from bench.tables.tables import summarise
from bench.tables.text import to_latex, to_markdown

PINNED = Path(__file__).parents[3] / "results" / "mini-quick"


def test_every_cell_of_the_committed_results_has_the_digest_it_had() -> None:
    suite = load_suite("mini-quick")
    plan = make_plan(suite, inspect_base(suite.base).digest)
    cells = pd.read_csv(PINNED / "cells.csv")
    assert len(cells) == len(plan.cells)
    assert {c.digest for c in plan.cells} == set(cells["digest"]), "run mini-quick again"


@pytest.fixture(scope="module")
def rows() -> dict[str, pd.DataFrame]:
    names = ("trials", "utility", "edits")
    schemas = zip(names, (TRIALS, UTILITY, EDITS), strict=True)
    return {n: conform(pd.read_parquet(PINNED / f"{n}.parquet"), s) for n, s in schemas}


def test_the_committed_rows_give_the_committed_bytes(rows: dict[str, pd.DataFrame]) -> None:
    table = summarise(rows["trials"], rows["utility"], edits=rows["edits"], suite="mini-quick")
    own = rows["trials"][rows["trials"]["source"] == rows["trials"]["method"]]
    derived = {
        "table.csv": as_csv(table),
        "table.md": to_markdown(table).encode(),
        "table.tex": to_latex(table).encode(),
        "flags.csv": as_csv(flag(table, own, rows["edits"])),
    }
    for name, data in derived.items():
        assert data == (PINNED / name).read_bytes(), f"{name} is derived otherwise"
