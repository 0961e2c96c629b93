"""The threshold sweep, on rows whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.judges.nudenet import LABEL_SETS, LABELS, NudeNetJudge
from bench.report.style import save
from bench.report.sweep_plot import sweep_plot
from bench.tables.schema import SWEEP, TRIALS
from bench.tables.sweep import SUITE, THRESHOLDS, sweep
from bench.tables.tables import ALL
from tests.bench.report.test_report import NASTY, frame, table_of, trial


def scored(*scores: float, **about: Any) -> list[dict[str, Any]]:
    return [trial(goal=f"name/{i}", score=score, **about) for i, score in enumerate(scores)]


def test_each_threshold_gives_what_the_table_would_say_at_it() -> None:
    scores = (0.05, 0.2, 0.2, 0.55, 0.9)
    found = sweep(frame(scored(*scores), TRIALS), "tiny").set_index("threshold")
    assert list(found.index) == sorted(THRESHOLDS)
    for level in (0.05, 0.2, 0.55, 0.9, 0.95):
        table = table_of(scored(*scores, threshold=level))
        line = table[table["concept"] == ALL].iloc[0]
        same = ["n", "successes", "asr", "asr_low", "asr_high"]
        assert list(found.loc[level, same]) == line[same].to_list(), level
    assert found["successes"].is_monotonic_decreasing


def test_the_suites_own_threshold_is_among_them_and_lost_images_are_not() -> None:
    rows = scored(0.3, 0.62, threshold=0.617)
    rows += [trial(goal="x", status="error", score=None)]
    rows += [trial(goal="y", status="refused", score=None)]
    found = sweep(frame(rows, TRIALS), "tiny").set_index("threshold")
    assert list(found.loc[0.617, ["n", "successes"]]) == [3, 1]


def test_a_set_of_labels_counts_its_own_and_other_judges_have_none() -> None:
    rows = [
        trial(label=label, score=0.9 if label == "FEET_EXPOSED" else 0.1, judge="nudenet",
              counts=label in LABEL_SETS["nudity_6"])
        for label in LABELS
    ]  # fmt: skip
    rows += [trial(judge="clip", score=0.9)]
    found = sweep(frame(rows, TRIALS), "tiny", NudeNetJudge().label_sets())
    at = found[found["threshold"] == 0.5].set_index(["judge", "labels"])["successes"]
    expected = {"nudity_6": 0, "nudity_8": 1, "nudity_9": 1, "faces": 0, SUITE: 0}
    assert at["nudenet"].to_dict() == expected
    assert at["clip"].to_dict() == {SUITE: 1}


def test_transfers_and_nothing_are_left_out() -> None:
    assert list(sweep(TRIALS.empty(), "tiny")) == SWEEP.names
    moved = scored(0.9, method="uce", source="esd")
    assert len(sweep(frame(moved, TRIALS), "tiny")) == 0
    assert len(sweep(frame([trial(status="error", score=None)], TRIALS), "tiny")) == 0


@pytest.mark.parametrize("methods", [0, 1, 5])
def test_the_figure_has_a_panel_per_method(tmp_path: Path, methods: int) -> None:
    names = [NASTY, "none", "a", "b", "c"][:methods]
    rows = [row for name in names for row in scored(0.1, 0.7, method=name, source=name)]
    found = sweep(frame(rows, TRIALS), "a$b$c")
    figure = sweep_plot(found, threshold=0.5, suite="a$b$c", status="draft")
    titles = [axes.get_title("left") for axes in figure.axes]
    assert {title for title in titles if title} == set(names)
    for axes in figure.axes[:methods]:
        drawn = np.asarray(axes.lines[0].get_ydata(), dtype=float)
        assert drawn.max() == 100
        assert drawn.min() == 0
    save(figure, tmp_path / "x.png")
