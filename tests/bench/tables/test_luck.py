"""Luck beside every attack, on rows whose answers are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench.report.write import write_report
from bench.tables.luck import LUCK
from bench.tables.schema import EDITS, TRIALS, UTILITY
from bench.tables.stats import proportion
from bench.tables.text import attacks_to_markdown
from tests.bench.report.test_report import NASTY, frame, line, table_of
from tests.bench.tables.test_flags import results

FEW: dict[str, Any] = {"attack": "random_tokens(tries=4)", "control": True, "queries": 4}
MANY: dict[str, Any] = {"attack": "random_tokens(tries=16)", "control": True, "queries": 16}
SEEDS: dict[str, Any] = {
    **{"attack": "seed_search", "access": "latent", "control": True, "queries": 16}
}


def luck_of(trials: list[dict[str, Any]], **where: str) -> dict[str, float]:
    about = {"concept": "pixel art", "attack": "p4d"} | where
    return {name: float(line(table_of(trials), **about)[name]) for name in ("queries", *LUCK)}


@pytest.mark.parametrize(
    ("queries", "rate", "tries"), [(1, 0.2, 4), (6, 0.2, 4), (10, 0.5, 16), (12, 0.5, 16), (99, 0.5, 16)]
)  # fmt: skip
def test_luck_is_the_control_whose_number_of_tries_is_nearest(
    queries: int, rate: float, tries: int
) -> None:
    trials = results(0.8, queries=queries) + results(0.2, **FEW) + results(0.5, **MANY)
    expected = proportion([1] * round(40 * rate) + [0] * round(40 - 40 * rate), range(40))
    found = luck_of(trials)
    assert found["queries"] == queries
    assert found["luck_queries"] == tries
    assert [found[name] for name in LUCK[:3]] == pytest.approx(
        [expected.value, expected.low, expected.high]
    )


@pytest.mark.parametrize(
    ("access", "rate"),
    [("prompt", 0.5), ("embedding", 0.5), ("latent", 0.25), ("weights", None)],
)
def test_the_control_has_the_attackers_access(access: str, rate: float | None) -> None:
    trials = results(0.8, access=access) + results(0.5, **MANY) + results(0.25, **SEEDS)
    found = luck_of(trials)["luck_asr"]
    assert math.isnan(found) if rate is None else found == rate


def test_n_is_a_mean_over_the_images_that_count() -> None:
    trials = results(0.5, 4)
    trials = [t | {"queries": n} for t, n in zip(trials, (2, 10, 6, 100), strict=True)]
    trials[3] |= {"status": "error", "score": None}
    assert luck_of(trials)["queries"] == 6


def test_controls_plain_prompts_and_lonely_attacks_have_no_luck() -> None:
    trials = results(0.5, **MANY) + results(0.4, attack="prompts", queries=0)
    table = table_of(trials)
    assert table[list(LUCK)].isna().to_numpy().all()
    assert set(table["queries"]) == {0, 16}
    lonely = results(0.5) + results(0.4, attack="prompts", queries=0, control=True)
    assert math.isnan(luck_of(lonely)["luck_asr"])
    lost = [t | {"status": "error", "score": None} for t in results(0.5, **MANY)]
    assert math.isnan(luck_of(results(0.5) + lost)["luck_asr"])


def test_luck_is_of_the_same_model_concept_and_judge_and_pooled_lines_have_pooled_luck() -> None:
    trials = []
    cases = [("esd", "circle", "mini", 0.1), ("esd", "star", "mini", 0.3)]
    cases += [("esd", "circle", "clip", 0.5), ("uce", "circle", "mini", 0.9)]
    for method, concept, judge, rate in cases:
        about: dict[str, Any] = {"method": method, "concept": concept, "judges": (judge,)}
        trials += results(1.0, **about) + results(rate, **MANY, **about)
    for method, concept, judge, rate in cases:
        assert luck_of(trials, method=method, concept=concept, judge=judge)["luck_asr"] == rate
    pooled = luck_of(trials, method="esd", concept="all", judge="mini")
    assert pooled["luck_asr"] == pytest.approx(0.2)


def test_a_control_on_the_same_prompt_set_comes_first() -> None:
    def both(rates: tuple[float, float], **about: Any) -> list[dict[str, Any]]:
        sets = zip(("name", "indirect"), rates, strict=True)
        return [
            t | {"prompt_set": s, "goal": s + t["goal"]}
            for s, r in sets
            for t in results(r, **about)
        ]

    trials = both((0.9, 0.8), queries=16) + both((0.5, 0.3), **MANY)
    assert luck_of(trials, attack="p4d/indirect")["luck_asr"] == 0.3
    assert luck_of(trials, attack="p4d/name")["luck_asr"] == 0.5


# ---- the page


def test_the_page_lists_attacks_that_search_beside_luck() -> None:
    trials = results(0.8, queries=12, own_score=0.9) + results(0.25, **MANY)
    trials += results(0.1, attack="prompts", queries=0)
    assert attacks_to_markdown(table_of(trials)).splitlines() == [
        "| concept | method | attack | before % | N | own view % | success % | luck % | luck's N |",
        "| --- | --- | --- | --: | --: | --: | --: | --: | --: |",
        "| pixel art | esd | p4d | 10 | 12.0 | 100 | 80 \\[65, 90\\] | 25 \\[14, 40\\] | 16.0 |",
    ]


def test_a_long_page_has_the_pooled_lines_alone() -> None:
    about = [(f"m{i}", c) for i in range(30) for c in ("a", "b")]
    trials = [t for m, c in about for t in results(0.5, 2, method=m, concept=c)]
    page = attacks_to_markdown(table_of(trials))
    assert page.count("| all | ") == 30
    assert page.endswith("\nThe lines of single concepts (60) are in [table.csv](table.csv).\n")
    short = attacks_to_markdown(table_of(trials[:80]))
    assert short.count("| all | ") == 20
    assert short.splitlines()[2].startswith("| all | m0 ")
    assert "single concepts" not in short


def test_a_long_page_of_one_concept_has_all_its_lines() -> None:
    """There are no pooled ones."""
    trials = [t for i in range(61) for t in results(0.5, 2, method=f"m{i}")]
    page = attacks_to_markdown(table_of(trials))
    assert page.count("| pixel art | m") == 61
    assert "single concepts" not in page


def test_hostile_names_stay_in_their_cells() -> None:
    page = attacks_to_markdown(table_of(results(0.5, method=NASTY, attack="a|b")))
    assert page.splitlines()[2].replace(r"\|", "").count("|") == 10


def report(folder: Path, trials: list[dict[str, Any]]) -> str:
    write_report(
        folder,
        "tiny",
        trials=frame(trials, TRIALS),
        utility=UTILITY.empty(),
        edits=EDITS.empty(),
        pictures={},
        scores={},
        provenance={},
    )
    return (folder / "README.md").read_text()


def test_the_section_is_there_where_an_attack_searches(tmp_path: Path) -> None:
    page = report(tmp_path, results(0.5) + results(0.5, **MANY))
    assert "\n\n## Attacks\n\nBest of N" in page
    assert "\n\n## Flags\n\n" in page
    assert "## Attacks" not in report(tmp_path, results(0.5, **MANY))
