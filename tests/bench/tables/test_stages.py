"""Success by stage of an ensemble, on rows whose answers are known."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from bench.core.stages import Stage
from bench.report.html_tables import stages_table
from bench.tables.answers import answers
from bench.tables.schema import STAGES, TRIALS
from bench.tables.stages import stages, stages_to_markdown
from bench.tables.stats import proportion
from bench.tables.tables import ALL
from tests.bench.report.test_report import frame, table_of, trial, worst_of

PLAIN, SEEDS, TOKENS = (
    str(Stage(1, "prompts", "prompt")),
    str(Stage(2, "seed_search", "latent")),
    str(Stage(3, "unlearn_diff_atk", "prompt")),
)


def find(goal: str, variant: str, own: float, *scores: float, **about: Any) -> list[dict[str, Any]]:
    """The held-out images of one find."""
    number = int(variant.partition(":")[0])
    return [
        trial(
            attack="standard[v1]", access="latent", goal=goal, variant=variant, own_score=own,
            score=score, queries=4 * number, candidate=10 * int(goal) + number, draw=draw, **about,
        )
        for draw, score in enumerate(scores)
    ]  # fmt: skip


def rows(**about: Any) -> list[dict[str, Any]]:
    """Five goals that went five ways."""
    return [
        *find("0", PLAIN, 0.9, 0.1, 0.8, **about),  # broken at once, both agree
        *find("1", PLAIN, 0.9, 0.1, 0.1, **about),  # left, and was never broken
        *find("2", PLAIN, 0.1, 0.9, 0.9, **about),  # broken, and went on all the same
        *find("2", SEEDS, 0.8, 0.9, **about),
        *find("3", PLAIN, 0.1, 0.1, 0.1, **about),
        *find("3", SEEDS, 0.1, 0.1, **about),
        *find("3", TOKENS, 0.9, 0.1, 0.7, **about),  # by the last stage
        *find("4", PLAIN, 0.1, 0.1, 0.1, **about),
        *find("4", SEEDS, 0.1, 0.1, **about),
        *find("4", TOKENS, 0.1, 0.1, 0.1, **about),  # stands
    ]


def derived(told: list[dict[str, Any]]) -> pd.DataFrame:
    return stages(frame(told, TRIALS), "tiny")


def test_each_goal_is_the_first_stages_that_broke_it() -> None:
    found = derived(rows())
    mine = found[found["concept"] != ALL].set_index("stage")
    assert mine["by"].tolist() == ["prompts", "seed_search", "unlearn_diff_atk"]
    assert mine["access"].tolist() == ["prompt", "latent", "prompt"]
    assert mine["goals"].tolist() == [5, 3, 2]
    assert mine["left"].tolist() == [2, 1, 1]
    assert mine["broken"].tolist() == [2, 0, 1]
    assert mine["false_leaves"].tolist() == [1, 0, 0]
    assert mine["images"].tolist() == [4, 8, 12]
    assert mine["share"].tolist() == [0.4, 0.4, 0.6]
    rate = proportion([True, False, True, True, False], range(5))
    assert (mine["low"].iloc[-1], mine["high"].iloc[-1]) == (rate.low, rate.high)


def test_pooled_lines_keep_goals_of_one_name_apart() -> None:
    found = derived([*rows(), *rows(concept="circle", family="object")])
    pooled = found[found["concept"] == ALL]
    assert pooled["goals"].tolist() == [10, 6, 4]
    assert pooled["broken"].tolist() == [4, 0, 2]
    assert pooled["share"].tolist() == [0.4, 0.4, 0.6]


def test_other_attacks_and_transfers_are_no_ensembles() -> None:
    assert list(derived([trial(variant="name"), trial(variant="")])) == STAGES.names
    assert not len(derived([row | {"source": "uce"} for row in rows()]))
    assert not len(derived([]))
    assert not len(derived([row | {"status": "error", "score": None} for row in rows()]))
    assert len(derived([*rows(), trial(attack="prompts", variant="name", goal="9")])) == 6


def test_a_rate_is_of_the_answers_and_counts_all_images_looked_at() -> None:
    """Of each goal the find with the best own score; other attacks and their order are left alone."""
    other = [trial(attack="p4d", goal=str(k), variant="name", queries=3) for k in range(2)]
    told = frame([other[0], *rows(), other[1]], TRIALS)
    kept = answers(told)
    mine = kept[kept["attack"] == "standard[v1]"]
    by_goal = mine.groupby("goal", sort=False)["variant"].unique().map(list)
    assert by_goal.to_dict() == {
        "0": [PLAIN], "1": [PLAIN], "2": [SEEDS], "3": [TOKENS], "4": [TOKENS],
    }  # fmt: skip
    assert mine.groupby("goal")["queries"].first().to_dict() == {
        "0": 4, "1": 4, "2": 8, "3": 12, "4": 12,
    }  # fmt: skip
    assert kept.index.is_monotonic_increasing
    assert answers(frame(other, TRIALS)).equals(frame(other, TRIALS))
    table = table_of([other[0], *rows()])
    line = table[(table["concept"] == ALL) & (table["attack"] == "standard[v1]")].iloc[0]
    assert (line["n"], line["successes"]) == (9, 3)


def test_the_worst_case_takes_all_finds() -> None:
    worst = worst_of(rows())
    line = worst[(worst["concept"] == ALL) & (worst["access"] == "any")].iloc[0]
    assert (line["goals"], line["broken"]) == (5, 3)


def test_the_page_has_a_line_per_method() -> None:
    page = stages_to_markdown(derived([*rows(), *rows(method="uce")]))
    head, _, one, other = page.splitlines()
    assert "| 2 seed_search (latent) |" in head
    assert one.split(" | ")[1:] == ["esd", "40", "40", "60", "5", "1 |"]
    assert other.split(" | ")[1] == "uce"
    assert stages_to_markdown(STAGES.empty()) == ""
    table = stages_table(derived([*rows(), *rows(method="uce")]))
    assert "2 seed_search (latent)" in table.head, "the run's page has the same"
    assert [cell.text for cell in table.rows[0]][1:] == ["esd", "40", "40", "60", "5", "1"]
    assert not stages_table(STAGES.empty()).rows


@pytest.mark.parametrize(
    "variant", ["name", "", "2: seed_search", "x: seed_search (latent)", "file 1: a (b) c"]
)
def test_what_names_no_stage_is_none(variant: str) -> None:
    assert Stage.read(variant) is None
