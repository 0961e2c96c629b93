"""The worst case per goal, on rows whose answers are known."""

from __future__ import annotations

import io
import math
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.tables.headline import console_worst, goals_said, worst_to_markdown
from bench.tables.schema import WORST
from bench.tables.stats import proportion
from bench.tables.summaries import ANY
from bench.tables.tables import ALL
from bench.tables.worst import headline
from tests.bench.report.test_report import NASTY, edit_row, trial, utility_row, worst_of

PLAIN: dict[str, Any] = {"attack": "prompts", "queries": 0}
VECTORS: dict[str, Any] = {"attack": "inversion", "access": "embedding", "gradient_steps": 3}
NOISE: dict[str, Any] = {"attack": "noise_probe", "access": "latent"}
WORDS: dict[str, Any] = {"attack": "random_tokens", "control": True}
SEEDS: dict[str, Any] = {"attack": "seed_search", "access": "latent", "control": True}


def tried(broken: str, **about: Any) -> list[dict[str, Any]]:
    """A row per letter: the goal it stands for, broken where it is a capital."""
    about = {"source": about.get("method", "esd")} | about
    return [
        trial(goal=f"name/{letter.lower()}", image_seed=i, score=0.9 if letter.isupper() else 0.1)
        | about
        for i, letter in enumerate(broken)
    ]


def line(rows: list[dict[str, Any]], access: str = ANY, concept: str = ALL) -> pd.Series:
    found = worst_of(rows)
    found = found[(found["access"] == access) & (found["concept"] == concept)]
    assert len(found) == 1
    return found.iloc[0]


def test_a_goal_is_broken_if_any_image_of_any_attack_shows_it() -> None:
    rows = tried("Abcd") + tried("aBcd", **VECTORS) + tried("abcdabcD", **NOISE)
    found = line(rows)
    expected = proportion([1, 1, 0, 1], range(4))
    assert found[["attacks", "goals", "broken", "images"]].to_list() == [3, 4, 3, 4.0]
    assert found[["share", "low", "high"]].to_list() == pytest.approx(
        [expected.value, expected.low, expected.high]
    )
    each = {"searched": 0.25, "embedding": 0.25, "latent": 0.25}
    assert {name: line(rows, name)["share"] for name in each} == each


@pytest.mark.parametrize(
    ("about", "access"),
    [
        (PLAIN, "typed"),
        ({"attack": "prompts(file=x.csv)", "queries": 0}, "typed"),
        ({"attack": "ring_a_bell", "queries": 4}, "searched"),
        ({"attack": "gcg", "queries": 0, "gradient_steps": 9}, "searched"),
        ({"attack": "swap", "queries": 0, "changed": 1}, "searched"),
        ({"attack": "prompts(file=x)", "queries": 0, "access": "embedding"}, "embedding"),
        ({"attack": "lora", "access": "weights"}, "weights"),
    ],
)
def test_what_an_attack_does_and_holds_says_which_access_it_is(
    about: dict[str, Any], access: str
) -> None:
    assert list(worst_of(tried("aB", **about))["access"].unique()) == [access, ANY]


def test_more_prompts_that_nobody_searched_from_do_not_thin_the_worst_case_out() -> None:
    rows = tried("ABabcdefgh", **PLAIN) + tried("AB", **VECTORS)
    assert line(rows)[["goals", "share"]].to_list() == [2, 1.0]
    assert line(rows, "typed")[["goals", "share"]].to_list() == [8, 0.25]
    # Two searches that share a goal are compared on it; those that share none, on all.
    rows += tried("bc", **NOISE)
    assert line(rows)[["goals", "share"]].to_list() == [1, 1.0]
    rows = tried("A", **VECTORS) + tried("b", **NOISE)
    assert line(rows)[["goals", "share"]].to_list() == [2, 0.5]


def test_controls_do_not_compete_and_their_share_stands_beside() -> None:
    rows = tried("abcD", **PLAIN) + tried("abcd", **NOISE)
    rows += tried("ABcdX", **WORDS) + tried("abCd", **SEEDS)
    assert line(rows)[["share", "control_share", "control_goals"]].to_list() == [0.25, 0.75, 4]
    assert line(rows, "typed")["control_share"] == 0.5, "random words, on the goals of the line"
    assert line(rows, "latent")["control_share"] == 0.25, "seeds"
    lone = line(tried("aB", attack="lora", access="weights") + tried("AB", **WORDS), "weights")
    assert lone["control_goals"] == 0
    assert math.isnan(lone["control_share"])


def test_an_image_that_was_lost_says_nothing_and_one_that_was_refused_does() -> None:
    lost: dict[str, Any] = {"status": "error", "score": None}
    rows = tried("Abc") + tried("d", **lost) + tried("E", **{**lost, "status": "refused"})
    found = line(rows)
    assert found[["goals", "broken"]].to_list() == [4, 1]
    nothing = line(tried("a", **lost))
    assert nothing["goals"] == 0
    assert math.isnan(nothing["share"])


def test_goals_of_two_concepts_and_repeats_are_units_of_their_own() -> None:
    rows = tried("Ab") + tried("ab", repeat=1) + tried("AB", concept="circle", family="object")
    found = line(rows)
    assert found[["goals", "broken", "share"]].to_list() == [4, 3, 0.5]
    expected = proportion([1, 0, 0, 0, 1, 1], [0, 1, 0, 1, 2, 3])
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert line(rows, concept="circle")["share"] == 1.0


def test_an_attack_elsewhere_and_another_judge_are_no_part_of_it() -> None:
    rows = tried("ab") + tried("AB", source="uce")
    assert line(rows)["share"] == 0.0
    both = worst_of(rows + tried("Ab", judge="clip"))
    assert both.groupby("judge", sort=False)["share"].first().to_dict() == {"mini": 0, "clip": 0.5}
    assert set(headline(both)["judge"]) == {"mini"}


def test_what_the_edit_cost_stands_beside_it() -> None:
    rows = [utility_row(prompt=f"p{i}", value=float(i > 0)) for i in range(4)]
    found = worst_of(tried("ab"), rows, [edit_row()])
    assert set(found["retained_accuracy"]) == {0.75}
    assert set(found["edit_seconds"]) == {2.0}


def test_nothing_is_an_empty_frame_and_is_said() -> None:
    found = worst_of([])
    assert list(found) == WORST.names
    assert worst_to_markdown(found) == "No rows.\n"
    assert goals_said(found) == ""
    assert shown(found) == "no rows\n"


def shown(worst: pd.DataFrame) -> str:
    out = Console(width=80, file=io.StringIO(), color_system=None)
    out.print(console_worst(worst))
    return out.file.getvalue()  # type: ignore[attr-defined] # a StringIO


def test_the_terminal_has_a_line_per_method_in_eighty_columns_and_one_screen() -> None:
    names = ["none", "task_vector[mini](alpha=2.0)", *(f"m{i}" for i in range(12)), "destroyed"]
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += tried("AB" * 50, method=name, **VECTORS) + tried("ab", method=name, **PLAIN)
    text = shown(worst_of(rows, [], [edit_row(method=name, seconds=1234.5) for name in names]))
    lines = text.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    for name in names:
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
    (line,) = [line for line in lines if line.startswith("task_vector")]
    assert line.split()[1:4] == ["0", "–", "100"], "typed, searched, embedding"
    assert "…" not in text
    assert lines[-1] == "goals: typed 2, embedding 2, worst 2"


def test_long_and_hostile_names_break_and_are_whole() -> None:
    name = "esd[mini](lr=0.0005, steps=1000, layers=everything)"
    text = shown(worst_of(tried("aB", method=name) + tried("aB", method=NASTY)))
    starts = [line[:30].strip() for line in text.splitlines()]
    assert starts.index("[mini]") == starts.index("esd") + 1
    assert max(map(len, text.splitlines())) <= 80
    assert NASTY in text
    page = worst_to_markdown(worst_of(tried("aB", method=NASTY)))
    assert {row.replace(r"\|", "").count("|") for row in page.splitlines()} == {9}
