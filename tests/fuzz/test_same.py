"""The comparison after kills sees every file, and lets nothing pass but what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.fuzz.same import compare

ENTRY = "store/edit/ab/abc"
PAGE = (
    "| method | seconds | peak MiB |\n| none | {} | {} | 0 | 2 | 1,152 | 0.02 |\n\nedit {} MiB.\n"
)


def place(folder: Path, measured: float) -> Path:
    """A small store and report of a run that took ``measured`` of whatever is measured."""
    (folder / ENTRY).mkdir(parents=True)
    (folder / "store/tmp").mkdir()
    (folder / "report").mkdir()
    record = {"title": "edit", "timing": {"seconds": measured, "micro_batch": 4}}
    (folder / ENTRY / "record.json").write_text(json.dumps(record))
    sealed = {"files": {"record.json": {"sha256": str(measured)}, "x": {"sha256": "0"}}}
    (folder / ENTRY / "manifest.json").write_text(json.dumps(sealed))
    (folder / ENTRY / "x").write_bytes(b"weights")
    rows = pd.DataFrame({"method": ["none"], "seconds": [measured], "images": [7]})
    rows.to_parquet(folder / "report/edits.parquet")
    rows.to_csv(folder / "report/cells.csv")
    rows = rows.rename(columns={"seconds": "edit_seconds"})
    rows.to_csv(folder / "report/worst.csv", index=False)
    cell = f'<td data-order="{measured}">{measured:.1f}</td><td data-order="7">7</td>'
    (folder / "report/index.html").write_text(cell)
    size = int(100 * measured)
    (folder / "report/README.md").write_text(PAGE.format(measured, size, size))
    about = {"commit": "c", "run": {"computed": int(measured), "set_aside": []}}
    (folder / "report/provenance.json").write_text(json.dumps(about))
    (folder / "report/table.tex").write_text("a table")
    return folder


def test_two_runs_that_differ_in_what_was_measured_are_the_same(tmp_path: Path) -> None:
    compare(place(tmp_path / "a", 1.25), place(tmp_path / "b", 22.5))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (f"{ENTRY}/record.json", '"micro_batch": 4', '"micro_batch": 2'),
        (f"{ENTRY}/manifest.json", '"0"', '"1"'),
        (f"{ENTRY}/x", "weights", "weighty"),
        ("report/cells.csv", ",7", ",8"),
        ("report/worst.csv", ",7", ",8"),
        ("report/index.html", ">7<", ">8<"),
        ("report/README.md", "| 2 |", "| 3 |"),
        ("report/provenance.json", '"set_aside": []', '"set_aside": ["edit"]'),
        ("report/table.tex", "a table", "another"),
    ],
)
def test_any_other_change_is_told_with_its_file(
    name: str, old: str, new: str, tmp_path: Path
) -> None:
    whole, broken = place(tmp_path / "a", 1.25), place(tmp_path / "b", 22.5)
    text = (broken / name).read_text()
    assert old in text
    (broken / name).write_text(text.replace(old, new))
    with pytest.raises(AssertionError, match=f"(?s)^{name}\n"):
        compare(whole, broken)


def test_a_changed_column_of_a_parquet_file_is_told(tmp_path: Path) -> None:
    whole, broken = place(tmp_path / "a", 1.25), place(tmp_path / "b", 22.5)
    path = broken / "report/edits.parquet"
    pd.read_parquet(path).assign(images=8).to_parquet(path)
    with pytest.raises(AssertionError, match=r"^report/edits\.parquet"):
        compare(whole, broken)


@pytest.mark.parametrize("name", ["store/tmp/1", "store/claims/1.lock", "report/.report-1/x"])
def test_what_is_left_behind_is_told(name: str, tmp_path: Path) -> None:
    whole, broken = place(tmp_path / "a", 1.25), place(tmp_path / "b", 22.5)
    (broken / name).parent.mkdir(exist_ok=True)
    (broken / name).touch()
    with pytest.raises(AssertionError, match=name.split("/")[1]):
        compare(whole, broken)


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    whole, broken = place(tmp_path / "a", 1.25), place(tmp_path / "b", 22.5)
    (broken / "report/table.tex").unlink()
    with pytest.raises(AssertionError, match=r"report/table\.tex"):
        compare(whole, broken)
