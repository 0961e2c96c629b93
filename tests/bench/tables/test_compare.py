"""A table against the committed one of its suite."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.tables.compare import compare, main
from bench.tables.spreadsheet import as_csv
from tests.bench.report.test_report import table_of, trial


def table(*scores: float, **about: Any) -> pd.DataFrame:
    return table_of([trial(goal=f"g{i}", score=s, **about) for i, s in enumerate(scores)])


def committed(found: pd.DataFrame) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(as_csv(found)), keep_default_na=True)


def test_the_same_table_agrees_on_every_line() -> None:
    found = table(*[0.9] * 10, *[0.1] * 10, concept="=1+1")
    assert compare(found, committed(found)) == (2, (), 0)


def test_intervals_that_do_not_meet_are_named_and_others_agree() -> None:
    mine, close, far = table(*[0.9] * 20), table(*[0.9] * 18, 0.1, 0.1), table(*[0.1] * 20)
    assert compare(mine, committed(close))[:2] == (2, ())
    agree, apart, unmatched = compare(mine, committed(far))
    assert (agree, unmatched, len(apart)) == (0, 0, 2)
    assert "esd / all / p4d: 100 [84, 100] %, committed 0 [0, 16] %" in apart


def test_lines_that_one_lacks_are_counted_and_lost_ones_say_nothing() -> None:
    mine = table(0.9, 0.1)
    other = table(0.9, 0.1, attack="uda")
    assert compare(mine, committed(other)) == (0, (), 4)
    lost = table(None, status="error")  # type: ignore[arg-type] # a score that is missing
    assert compare(mine, committed(lost)) == (0, (), 0)


def test_two_files_are_compared_by_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "before.csv", tmp_path / "after.csv"
    before.write_bytes(as_csv(table(*[0.1] * 20, concept="=1+1")))
    after.write_bytes(as_csv(table(*[0.9] * 20, concept="=1+1")))
    assert main([str(before), str(after)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("0 of 2 lines agree within their intervals, 0 are in one alone\n")
    assert "apart: esd / =1+1 / p4d: 100 [84, 100] %, committed 0 [0, 16] %\n" in said


@pytest.mark.parametrize("content", [None, b"", b"a,b\n1,2\n", b"\xff\xfe"])
def test_a_file_that_is_no_table_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    whole, other = tmp_path / "whole.csv", tmp_path / "other.csv"
    whole.write_bytes(as_csv(table(0.9, 0.1)))
    if content is not None:
        other.write_bytes(content)
    assert main([str(whole), str(other)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {other}: expected a table.csv") and said.count("\n") == 1
