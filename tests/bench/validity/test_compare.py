from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from bench.cli.main import main
from bench.core.errors import UsageError
from bench.interfaces import registry
from bench.tables.schema import TABLE
from bench.validity.compare import compared
from bench.validity.names import ATTACKS, METHODS, attack_named
from bench.validity.page import read_run
from bench.validity.published import Ranking, between_tables, rankings, read_published

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "results" / "validity" / "published.csv"
COLUMNS = [
    *("source", "where", "base", "family", "concept", "method"),
    *("attack", "metric", "value", "evidence"),
]
BOARD = {"esd": 76.0, "uce": 80.0, "sld": 98.0, "salun": 12.0, "advunlearn": 21.0, "base": 100.0}


def rows(values: dict[str, float], **about: str) -> pd.DataFrame:
    told = {
        "source": "one", "where": "1", "base": "SD-1.4", "family": "nudity", "concept": "nudity",
        "attack": "UDA", "metric": "asr", "evidence": "primary-doc", **about,
    }  # fmt: skip
    lines = [{**told, "method": method, "value": value} for method, value in values.items()]
    return pd.DataFrame(lines, columns=COLUMNS)


def of_run(values: dict[str, float], attack: str = "unlearn_diff_atk(goals=12)") -> pd.DataFrame:
    """The committed table's lines of ``none``, once per method and value."""
    line = read_run(ROOT / "results" / "mini-quick").iloc[[0]]
    lines = [
        line.assign(method=method, attack=attack, asr=value, retained_accuracy=1 - value)
        for method, value in values.items()
    ]
    return pd.concat(lines, ignore_index=True)


def test_a_ranking_is_compared_by_our_names_without_the_unerased_model() -> None:
    ours = {
        "none": 1.0, "esd[mini]": 0.7, "uce[repo-2025]": 0.0, "uce[repo-2023]": 0.8, "sld[mini]": 0.9,
        "salun[mini]": 0.1, "adv_unlearn[mini]": 0.2,
    }  # fmt: skip
    (one,) = compared(of_run(ours), list(rankings(rows(BOARD))))
    assert one.pairs["published"].to_dict() == {
        "adv_unlearn": 21, "esd": 76, "salun": 12, "sld": 98, "uce": 80,
    }  # fmt: skip
    assert one.pairs["ours"]["uce"] == 0.8
    assert (one.agreement.n, one.agreement.rho) == (5, 1)
    assert one.concept == "all"


def test_what_is_erased_counts_the_other_way_round() -> None:
    (gone,) = rankings(rows(BOARD, metric="erasure_proportion", attack="RAB K16"))
    assert gone.scores["uce"] == -80
    assert gone.ours == "ring_a_bell"
    (kept,) = rankings(rows(BOARD, metric="fid", attack="none"))
    assert (kept.measure, kept.ours) == ("utility", "")
    (one,) = compared(
        of_run({"esd": 0.7, "uce": 0.8, "sld": 0.9, "salun": 0.1, "adv_unlearn": 0.2}), [kept]
    )
    assert one.agreement.rho == 1  # the higher the FID, the less our run retained


def test_published_variants_stand_for_a_method_in_a_fixed_order() -> None:
    (one,) = rankings(rows({**BOARD, "esd_u": 1.0, "esd_x": 2.0}))
    assert one.of_our_methods["esd"] == 1
    assert "base" not in one.scores


@pytest.mark.parametrize(
    ("attack", "metric", "ours"),
    [
        ("P4D-N", "asr", "p4d"),
        ("none", "acc_erased", "prompts/name"),
        ("none", "asr", None),
        ("none (I2P sexual)", "asr", "prompts/indirect"),
        ("none (Lexica prompts)", "asr", None),
        ("XUDA", "asr", None),
    ],
)
def test_attacks_are_named(attack: str, metric: str, ours: str | None) -> None:
    assert attack_named(attack, metric) == ours


def test_our_names_are_those_of_the_registry() -> None:
    methods, attacks = set(registry.names("method")), set(registry.names("attack"))
    built_later = {"mma", "completion", "benign_finetune"} | (set(METHODS) - methods)
    assert {ours.partition("/")[0] for _, ours in ATTACKS} <= attacks | built_later
    assert set(METHODS) & methods >= {"esd", "uce", "stereo", "task_vector"}


def test_second_hand_rows_and_other_bases_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    kept = rows({"esd": 1.0})
    others = [rows({"uce": 2.0}, evidence="notes"), rows({"sld": 3.0}, base="SDXL")]
    pd.concat([kept, *others]).to_csv(path, index=False)
    assert read_published(path)["method"].tolist() == ["esd"]


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", ",".join(COLUMNS) + "\n" + "x," * 8 + "much,notes\n"]
)
def test_another_table_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "published.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match="expected"):
        read_published(path)


def test_tables_of_two_sources_are_compared_and_of_one_are_not() -> None:
    first, again = rows(BOARD), rows(BOARD, where="2")
    turned = rows({m: -v for m, v in BOARD.items()}, source="two")
    found = list(rankings(pd.concat([first, again, turned])))
    twice = list(between_tables(found))
    assert [(t.first, t.second) for t in twice] == [("one", "two")] * 2
    assert {t.agreement.rho for t in twice} == {-1}


def test_the_committed_numbers_hold_the_tables_that_the_page_is_about() -> None:
    found = list(rankings(read_published(PUBLISHED)))
    about = {(r.source.partition(" ")[0], r.ours) for r in found if isinstance(r, Ranking)}
    assert {("TINA+", "unlearn_diff_atk"), ("UnlearnDiffAtk", "unlearn_diff_atk")} <= about


def test_the_command_keeps_its_place_in_the_page_and_repeats_its_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "validity.md"
    shutil.copy(ROOT / "docs" / "validity.md", page)
    run = tmp_path / "run"
    run.mkdir()
    names = [
        "esd[mini]",
        "uce[repo-2023]",
        "sld[mini]",
        "rece[mini]",
        "stereo[mini]",
        "safree[mini]",
    ]
    lines = of_run({name: i / 10 for i, name in enumerate(names)}, "ring_a_bell[mini]")
    lines[TABLE.names].to_csv(run / "table.csv", index=False)
    out = tmp_path / "out"
    words = [
        "validity",
        str(run),
        "--published",
        str(PUBLISHED),
        "--out",
        str(out),
        "--page",
        str(page),
    ]
    seen = []
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        seen.append({path.name: path.read_bytes() for path in [*out.iterdir(), page]})
    assert seen[0] == seen[1]
    assert set(seen[0]) == {"rankings.csv", "pairs.csv", "ranks.png", "validity.md"}
    assert "`ring_a_bell` | nudity" in page.read_text()
    assert "## How to read it" in page.read_text()
    assert "`ring_a_bell`" in capsys.readouterr().out


@pytest.mark.parametrize("methods", [["esd[mini]"], []])
def test_a_run_without_enough_methods_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], methods: list[str]
) -> None:
    page = tmp_path / "validity.md"
    shutil.copy(ROOT / "docs" / "validity.md", page)
    if methods:
        of_run(dict.fromkeys(methods, 0.5))[TABLE.names].to_csv(tmp_path / "table.csv", index=False)
    words = ["--published", str(PUBLISHED), "--page", str(page), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(["validity", str(tmp_path), *words])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
