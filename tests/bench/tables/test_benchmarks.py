"""The benchmarks of `make perf` are run by hand alone, so what they are fed is held to today's columns here."""

from __future__ import annotations

from bench.tables.schema import EDITS, TRIALS, UTILITY, check
from bench.tables.tables import summarise
from tests.perf import test_report_speed as speed


def test_the_rows_of_the_benchmark_are_rows_of_today() -> None:
    rows = speed.trials()
    check(rows, TRIALS)
    few = rows[rows["goal"].isin(("name/0", "name/1"))]
    table = summarise(few, UTILITY.empty(), edits=EDITS.empty(), suite="speed")
    assert len(table) == 10 * 10 * (5 + 1)
