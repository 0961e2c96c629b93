"""The memory of a report grows with its rows alone: pictures are read one trial at a time."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.run.store import Store
from tests.perf import full_store
from tests.perf.full_store import fill, large_plan

ROOT: Final = Path(__file__).parents[3]
BOUND: Final = 150
"""KiB per cell, at most."""

READ: Final = """
import sys
from pathlib import Path
from bench.config.suite import load_suite
from bench.model.pipeline.inspect import inspect_base
from bench.report.gallery import gallery
from bench.report.write import _grids
from bench.run.collect import collect
from bench.run.plan import make_plan
from bench.run.store import Store

place, store, held = Path(sys.argv[1]), Store(Path(sys.argv[2])), sys.argv[3] == "held"
suite = load_suite(str(place / "large.yaml"))
plan = make_plan(suite, inspect_base(suite.base).digest)
found = collect(plan, store)
kept = [list(row) for shown in found.pictures.values() for row in shown.values()] if held else []
_grids(place, found.pictures, found.scores, found.prompts, threshold=0.5)
cards = gallery(found.pictures, found.images, found.prompts, found.trials)
if found.missing or found.failed or not cards:
    raise SystemExit("expected a whole run with pictures")
print(len(plan.cells), open("/proc/self/status").read())
"""
"""Collects a run and shows its pictures, as a report does; the figures of matplotlib need no picture."""


def large_and_flat(rng: np.random.Generator, number: int) -> NDArray[np.uint8]:
    """Pictures of 192 KiB each, which take little time to pack."""
    squares = rng.integers(0, 256, (number, 8, 8, 3), np.uint8)
    return squares.repeat(32, axis=1).repeat(32, axis=2)


def peak_of(place: Path, store: Path, mode: str) -> tuple[int, int]:
    """How many cells a report is of, and the largest memory of its process in KiB."""
    said = subprocess.run(
        [sys.executable, "-c", READ, str(place), str(store), mode],
        check=True, capture_output=True, text=True, cwd=ROOT,
    ).stdout  # fmt: skip
    peak = re.search(r"VmHWM:\s+(\d+) kB", said)
    assert peak is not None
    return int(said.split()[0]), int(peak[1])


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_report_of_more_cells_holds_no_more_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between 161 and 644 cells the peak grows by 64 KiB per cell (measured), and with all pictures held by 489.

    At this size it is mostly what libraries set aside as they warm up; see docs/performance.md for larger runs.
    """
    monkeypatch.setattr(full_store, "_pictures", large_and_flat)
    few, many = tmp_path / "few", tmp_path / "many"
    few.mkdir()
    many.mkdir()
    store = tmp_path / "store"
    fill(Store(store), large_plan(many, 1, ["star", "zorbo", "watercolour", "heart"]))
    large_plan(few, 1, ["star"])  # its cells are among them
    (cells, least), (more, most) = (peak_of(place, store, "read") for place in (few, many))
    assert (cells, more) == (161, 644)
    assert (most - least) / (more - cells) < BOUND
