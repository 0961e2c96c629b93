"""Success against budget, on rows whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.report.budget_plot import budget_plot
from bench.report.style import save
from bench.run.traces import curve_of
from bench.tables.budget import budget, family
from bench.tables.schema import BUDGET, TRIALS
from bench.tables.stats import wilson
from tests.bench.report.test_report import NASTY, frame, table_of, trial


def of_line(attack: str, hits: int, **about: Any) -> list[dict[str, Any]]:
    """Ten images on ten goals, of which some show the concept."""
    return [
        trial(attack=attack, goal=f"name/{k}", score=0.9 if k < hits else 0.1, **about)
        for k in range(10)
    ]


def derived(
    rows: list[dict[str, Any]], curves: list[dict[str, object]] | None = None
) -> pd.DataFrame:
    return budget(table_of(rows), frame(rows, TRIALS), curves or [], "tiny")


def searched(looks: tuple[float, ...], **about: Any) -> dict[str, Any]:
    trace = {"looks": list(looks), "changed": 0, "steps": 0, "budget": 0, "zero": 0, "bad": 0}
    return {"goal": about.pop("goal"), "trace": trace | about}


def test_lines_that_differ_in_their_constants_alone_are_one_curve() -> None:
    rows = [
        *of_line("relearn[mini](steps=10, goals=12)", 2, gradient_steps=10, access="weights"),
        *of_line("relearn[mini](steps=40)", 5, gradient_steps=40, access="weights"),
        *of_line("relearn[mini]", 9, gradient_steps=80, access="weights"),
        *of_line("relearn", 9, gradient_steps=200, access="weights"),
        *of_line("p4d", 7, queries=5),
    ]
    found = derived(rows)
    assert set(found["attack"]) == {"relearn[mini]"}
    assert found["steps"].tolist() == [10, 40, 80]
    assert found["share"].tolist() == [0.2, 0.5, 0.9]
    assert set(found["view"]) == {"record"}
    assert found["line"].iloc[0] == "relearn[mini](steps=10, goals=12)"


def test_images_tell_lines_apart_too_and_transfers_are_left_out() -> None:
    rows = [
        *of_line("random_tokens(tries=4)", 1, queries=4),
        *of_line("random_tokens(tries=16)", 3, queries=16),
        *of_line("p4d(steps=1)", 1, queries=2),
        *of_line("p4d(steps=2)", 9, queries=4, source="uce"),
    ]
    found = derived(rows)
    assert found["images"].tolist() == [4, 16]
    assert found["steps"].isna().all()


def test_the_prompt_sets_of_one_line_are_no_budgets() -> None:
    rows = [
        *of_line("p4d", 1, queries=4),
        *[row | {"prompt_set": "synonyms", "queries": 5} for row in of_line("p4d", 3)],
    ]
    assert not len(derived(rows))
    assert family("p4d[mini](steps=3)/name") == "p4d[mini]/name"


def test_one_search_is_a_curve_of_its_goals() -> None:
    goals = [
        searched((0.1, 0.6, 0.6), goal="a", images=(1, 5, 9)),
        searched((0.1, 0.2, 0.7), goal="b", images=(1, 5, 9)),
        searched((0.9,), goal="c", images=(1,)),  # it stopped at once
    ]
    rows = curve_of(goals, {"cell": "one", "method": "esd", "attack": "query_search"}, 0.5)
    assert [row["reached"] for row in rows] == [1, 2, 3]
    assert [row["images"] for row in rows] == pytest.approx([1, 11 / 3, 19 / 3])
    found = derived(of_line("p4d", 1), rows)
    assert found["share"].tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert found["low"].iloc[0] == pytest.approx(wilson(1, 3).low)
    assert (found["view"] == "own").all()
    assert (found["judge"] == "").all()


def test_steps_lie_between_the_looks() -> None:
    goals = [searched((0.1, 0.2, 0.6), goal="a", steps=20, budget=20)]
    rows = curve_of(goals, {"cell": "one", "method": "esd", "attack": "p4d"}, 0.5)
    assert [row["steps"] for row in rows] == [0, 10, 20]
    assert [row["images"] for row in rows] == [None] * 3
    assert derived(of_line("p4d", 1), rows)["images"].isna().all()


def test_a_shorter_search_stays_as_it_was() -> None:
    about = {"method": "esd", "attack": "query_search"}
    long = curve_of(
        [searched((0.1, 0.2, 0.3, 0.4), goal="a", images=(1, 2, 3, 4))],
        about | {"cell": "one"},
        0.5,
    )
    short = curve_of(
        [searched((0.1, 0.2, 0.9), goal="b", images=(1, 2, 3))], about | {"cell": "two"}, 0.5
    )
    found = derived(of_line("p4d", 1), [*long, *short])
    assert found["n"].tolist() == [2, 2, 2, 2]
    assert found["successes"].tolist() == [0, 0, 1, 1]
    assert found["images"].tolist() == [1, 2, 3, 3.5]


@pytest.mark.parametrize("goals", [
    [searched((0.1, 0.9), goal="a", images=(1, 2))],  # two looks
    [searched((0.1, 0.2, 0.9), goal="a")],  # neither images nor steps
    [searched((0.1, 0.2, 0.9), goal="a", images=(1, 2, 3)), {"goal": "b", "trace": None}],
    [searched((0.1, 0.2, 0.9), goal="a", images=(1, 2, 3))] * 2,  # an ensemble's: several finds
    [],
])  # fmt: skip
def test_a_search_that_kept_no_such_account_is_no_curve(goals: list[dict[str, Any]]) -> None:
    assert curve_of(goals, {"cell": "one", "method": "esd", "attack": "p4d"}, 0.5) == []


def test_nothing_gives_nothing() -> None:
    assert list(derived(of_line("p4d", 1))) == BUDGET.names
    assert not len(derived(of_line("p4d", 1)))
    assert not len(derived([]))
    lost = [row | {"status": "error", "score": None} for row in of_line("p4d", 1)]
    assert not len(derived(lost))


def test_the_figure_is_the_same_each_time(tmp_path: Path) -> None:
    rows = [
        row
        for method in ("esd", NASTY)
        for steps, hits in ((10, 2), (40, 7))
        for row in of_line(f"relearn(steps={steps})", hits, gradient_steps=steps, method=method)
    ]
    looks = tuple(np.linspace(0.1, 0.9, 9))
    curves = curve_of(
        [searched(looks, goal="a", steps=16, budget=16)],
        {"cell": "one", "method": NASTY, "attack": "p4d"}, 0.5,
    )  # fmt: skip
    lines = derived(rows, curves)
    for name in ("one.png", "two.png"):
        save(budget_plot(lines, suite=NASTY, status="draft"), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
