"""Finds on one method are tried on the others: run, resumed, tabled, drawn and published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from safetensors.torch import load_file

from attacks.shared.prompt_file import read_prompts, read_tensors
from bench.config.suite import load_suite
from bench.model.text_to_image import TextToImage
from bench.report import plots
from bench.report.heat_map import heat_map
from bench.report.write import write_report
from bench.run.cells import AttackCell
from bench.run.collect import collect
from bench.run.plan import Plan, make_plan
from bench.run.results import Results
from bench.run.runner import run_plan
from bench.run.store import Store
from bench.tables import schema
from bench.tables.schema import TRANSFER, TRIALS
from bench.tables.stats import proportion
from bench.tables.tables import summarise
from bench.tables.transfer import matrix
from tests.indexed import indexed

INVERSION = {"concept_inversion": {"images": 2, "steps": 2, "draws": 2, "restarts": 1}}
NASTY = "a%b_c&d{e}$f#|*g\\h"
FIELDS: dict[str, Any] = {
    "name": "tiny",
    "concepts": ["star"],
    "sampler": {"steps": 2, "guidance_scale": 3.0},
    "methods": ["none", "destroyed", {"uce": {"preset": "repo-2023"}}],
    "attacks": [
        *("prompts", {"random_tokens": {"tries": 2}}, {"seed_search": {"tries": 2}}),
        INVERSION,
    ],
    "judges": ["mini_judge"],
    "surrogate": "clip_zero_shot",
    "metrics": ["accuracy"],
    "goals": 2,
    "utility": {"neighbours": 0, "others": 0},
    "transfer": ["concept_inversion", "seed_search"],
}
ONLY = ("none", "uce", "prompts", "seed_search", "concept_inversion")
CELLS = 2 * (1 + 3 * 3)
TRANSFERS = 2 * 2 * 2


def plan_of(base: TextToImage, only: tuple[str, ...] = ONLY, **changes: Any) -> Plan:
    suite = load_suite("mini-quick").with_(**FIELDS | changes)
    return make_plan(suite, base.backbone.digest, only=only)


def table_of(found: Results) -> pd.DataFrame:
    return summarise(found.trials, found.utility, edits=found.edits, suite="tiny")


def report(folder: Path, found: Results) -> None:
    write_report(
        folder, "tiny", trials=found.trials, utility=found.utility, edits=found.edits, pictures=found.pictures,
        scores=found.scores, provenance={}, candidates=found.candidates,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(
    miniature: TextToImage, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Plan, Path, pd.DataFrame]:
    """A run that was first made without transfers, then with, stopped among them and resumed.

    With its table from before there were any.
    """
    root = tmp_path_factory.mktemp("finished")
    plain, plan = plan_of(miniature, transfer=[]), plan_of(miniature)
    first = run_plan(plain, Store(root), miniature)
    assert (first.computed, first.failed) == (CELLS, [])
    before = table_of(collect(plain, Store(root)))
    answers = iter([False, False, True])
    cut = run_plan(plan, Store(root), miniature, interrupt=lambda: next(answers))
    assert (cut.computed, cut.cached, cut.failed) == (2, CELLS, [])
    assert len(collect(plan, Store(root)).missing) == TRANSFERS - 2
    rest = run_plan(plan, Store(root), miniature)
    assert (rest.computed, rest.cached, rest.failed) == (TRANSFERS - 2, CELLS + 2, [])
    return plan, root, before


# ---- a run


def test_transfers_leave_the_table_and_the_pictures_as_they_are(
    finished: tuple[Plan, Path, pd.DataFrame],
) -> None:
    plan, root, before = finished
    found = collect(plan, Store(root))
    assert_frame_equal(table_of(found), before)
    assert set(found.trials["source"]) == {"none", "uce[repo-2023]"}
    assert all(len(images) <= 8 for images in found.pictures["star"].values())
    assert {method for method, _ in found.pictures["star"]} == {"none", "uce[repo-2023]"}


def test_the_candidates_of_a_transfer_are_those_of_its_source(
    finished: tuple[Plan, Path, pd.DataFrame],
) -> None:
    plan, root, _ = finished
    trials = collect(plan, Store(root)).trials
    attack = trials[trials["attack"] == "concept_inversion"]
    ordinary = attack[attack["source"] == attack["method"]]
    moved = attack[attack["source"] != attack["method"]]
    assert len(moved) == len(ordinary) == 2 * 2
    for source, rows in moved.groupby("source"):
        theirs = ordinary[ordinary["source"] == source]
        assert set(rows["attack_digest"]) == set(theirs["attack_digest"])
        assert set(rows["edit_digest"]).isdisjoint(theirs["edit_digest"])
        assert set(rows["image_seed"]) == set(theirs["image_seed"])
        assert set(rows["image_sha256"]).isdisjoint(theirs["image_sha256"])


def test_a_failed_source_is_an_error_of_its_transfers(
    finished: tuple[Plan, Path, pd.DataFrame], miniature: TextToImage, tmp_path: Path
) -> None:
    plan = plan_of(miniature, transfer=["seed_search"])
    kept = [c for c in plan.cells if not isinstance(c, AttackCell) or c.method.name == "none"]
    store, broken = Store(tmp_path), Plan(**{**vars_of(plan), "cells": tuple(kept)})
    run_plan(broken, store, miniature)  # nobody attacks uce
    found = collect(broken, store)
    assert not found.missing
    table = matrix(found.trials).set_index(["concept", "source", "target"]).loc["star"]
    lost = table[table["n"] == 0]
    assert {source for source, _ in lost.index} == {"uce[repo-2023]"}
    assert len(lost) == 2
    assert (lost["attempted"] == 2).all()


def vars_of(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


def test_the_report_is_the_same_bytes_again_and_names_the_matrix(
    finished: tuple[Plan, Path, pd.DataFrame], tmp_path: Path
) -> None:
    plan, root, before = finished
    for name in ("one", "two"):
        report(tmp_path / name, collect(plan, Store(root)))
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
    names = {"transfer.csv", "transfer.png", "transfer.pdf", "candidates.jsonl"}
    assert names | {"candidates.safetensors"} <= set(one)
    page = one["README.md"].decode()
    assert "![Transfer of attacks between methods](transfer.png)" in page
    assert "[candidates.jsonl](candidates.jsonl) has the 4 prompts" in page
    found = pd.read_csv(tmp_path / "one" / "transfer.csv")
    diagonal = found[found["source"] == found["target"]].rename(columns={"source": "method"})
    both = diagonal.merge(before, on=["judge", "attack", "concept", "method"])
    assert len(both) == len(diagonal) == 2 * 2 * 2
    for name in ("n", "successes", "asr", "asr_low", "asr_high"):
        assert both[f"{name}_x"].to_list() == pytest.approx(both[f"{name}_y"].to_list(), abs=1e-5)
    assert len(found) == 2 * 2 * 4  # attacks, concept and all, pairs


def test_without_transfers_nothing_is_said_of_them(
    finished: tuple[Plan, Path, pd.DataFrame], miniature: TextToImage, tmp_path: Path
) -> None:
    _, root, _ = finished
    report(tmp_path, collect(plan_of(miniature, ("none", "seed_search"), transfer=[]), Store(root)))
    assert not {p.stem for p in tmp_path.iterdir()} & {"transfer", "candidates"}
    assert "ransfer" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("where", ["report", "store"])
def test_published_candidates_are_tried_on_another_model(
    finished: tuple[Plan, Path, pd.DataFrame], miniature: TextToImage, tmp_path: Path, where: str
) -> None:
    plan, root, _ = finished
    found = collect(plan, Store(root))
    report(tmp_path, found)
    mine = next(one for one in found.candidates if one.method == "none")
    file = (
        tmp_path / "candidates.jsonl" if where == "report" else mine.entry.path / "candidates.json"
    )
    attacks = [{"prompts": {"file": str(file)}}, *FIELDS["attacks"][1:3]]
    changes = {"attacks": attacks, "transfer": []}
    again = plan_of(miniature, ("uce", "prompts"), **changes)
    assert run_plan(again, Store(root), miniature).failed == []
    rows = collect(again, Store(root)).trials
    assert set(rows["access"]) == {"embedding"}
    assert set(rows["goal"]) == {"file-name-000", "file-name-001"}
    if where == "report":
        by = ["concept_inversion on none", "concept_inversion on uce[repo-2023]"]
        assert sorted(set(rows["variant"])) == by
        assert table_of(collect(again, Store(root)))["clusters"].to_list() == [2, 2]
    states = load_file(mine.entry.file("candidates.safetensors"))
    theirs = [r for r in read_prompts(file) if r.found in ("", "concept_inversion on none")]
    tensors = read_tensors(file, theirs)
    assert len(theirs) == 2
    for number, row in enumerate(theirs):
        assert torch.equal(tensors[row.states], states[f"states/{number}"])


# ---- the matrix and its picture


def trial(source: str, target: str, **changes: Any) -> dict[str, Any]:
    row = {
        **{"method": target, "source": source, "concept": "star", "family": "object", "repeat": 0},
        **{"attack": "p4d", "access": "prompt", "control": False, "prompt_set": "name"},
        **{"goal": "name/0", "prompt": "a picture", "variant": "", "image_seed": 0},
        **{"judge": "mini", "label": "concept", "counts": True, "score": 0.9, "threshold": 0.5},
        **{"status": "ok", "own_score": None, "own_threshold": 0.5},
        **{"queries": 1, "image_sha256": "", "reason": ""},
        **{"gradients": False, "changed": None, "gradient_steps": None, "gradient_zero": None},
        **{"gradient_bad": None, "late_gain": None},
        **{"edit_digest": target, "attack_digest": source, "trial_digest": source + target},
    }
    return row | changes


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return schema.conform(pd.DataFrame(indexed(rows)), TRIALS)


def world(methods: tuple[str, ...] = ("none", "esd", NASTY, "destroyed")) -> pd.DataFrame:
    return frame(
        [
            trial(s, t, concept=concept, goal=f"name/{goal}", judge=judge, attack=attack,
                  score=0.9 if (i + 2 * j) % 4 >= goal else 0.1)
            for i, s in enumerate(methods)
            for j, t in enumerate(methods)
            for concept in ("star", "zorbo")
            for goal in range(3)
            for judge in ("mini", "clip")
            for attack in ("p4d", "$u_d$")
        ]
    )  # fmt: skip


def test_rates_have_the_clustered_intervals_of_the_table() -> None:
    hits, goals = [1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 2, 2]
    rows = [
        trial("esd", "uce", goal=f"name/{g}", image_seed=k % 2, score=0.9 if hit else 0.1)
        for k, (hit, g) in enumerate(zip(hits, goals, strict=True))
    ]
    rows += [trial("esd", "uce", goal="name/3", status="error", score=None)]
    rows += [trial("esd", "uce", goal="name/4", status="refused", score=None)]
    rows += [trial("esd", "uce", attack="alone"), trial("uce", "uce", attack="alone")]
    rows += [trial("esd", "esd", attack="never transferred")]
    found = matrix(frame(rows))
    assert set(found["attack"]) == {"p4d", "alone"}
    row = found[(found["attack"] == "p4d") & (found["concept"] == "star")].iloc[0]
    expected = proportion([*hits, 0], [*goals, 4])
    assert row[["source", "target"]].to_list() == ["esd", "uce"]
    assert row[["n", "attempted", "clusters", "successes"]].to_list() == [7, 8, 4, 3]
    bounds = row[["asr", "asr_low", "asr_high"]].to_list()
    assert bounds == pytest.approx([expected.value, expected.low, expected.high])


def test_the_matrix_is_in_the_tables_order_whatever_that_of_the_rows() -> None:
    rows = world()
    found = matrix(rows)
    assert list(found) == TRANSFER.names
    assert len(found) == 2 * 2 * 3 * 16
    for column, names in (("judge", ["mini", "clip"]), ("concept", ["all", "star", "zorbo"])):
        assert list(found[column].unique()) == names
    for column in ("source", "target"):
        assert list(found[column].unique()) == ["none", NASTY, "esd", "destroyed"]
    mixed = rows.sample(frac=1, random_state=1)
    record = mixed["judge"] == "mini"
    assert_frame_equal(matrix(pd.concat([mixed[record], mixed[~record]])), found)
    pooled = found[(found["judge"] == "mini") & (found["concept"] == "all")]
    assert (pooled["n"] == 6).all()


def test_no_transfer_no_lines() -> None:
    for rows in (TRIALS.empty(), frame([trial("esd", "esd")])):
        assert_frame_equal(matrix(rows), TRANSFER.empty())


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_heat_map_shows_every_pair_and_leaves_the_settings_alone(tmp_path: Path) -> None:
    before = {k: mpl.rcParams[k] for k in mpl.rcParams if k != "backend"}
    rows = world()
    lost = (rows["source"] == "esd") & (rows["method"] == "none")
    rows = rows.assign(status=rows["status"].mask(lost, "error"), score=rows["score"].mask(lost))
    table = matrix(rows)
    figure = heat_map(table, suite="a$b$c", status="draft")
    one, two, *_ = figure.axes
    assert [axes.get_title("left") for axes in (one, two)] == ["$u_d$", "p4d"]
    assert [t.get_text() for t in one.get_yticklabels()] == ["none", NASTY, "esd", "destroyed"]
    assert [t.get_text() for t in one.get_xticklabels()] == ["none", NASTY, "esd", "destroyed"]
    pooled = table[(table["judge"] == "mini") & (table["concept"] == "all")]
    shown = ["–" if np.isnan(v) else f"{100 * v:.0f}" for v in pooled["asr"]]
    assert texts(one) + texts(two) == shown
    assert shown[8] == "–" and len(set(shown)) == 4
    title = "Transfer of attacks, suite a$b$c, judge mini"
    assert [text.get_text() for text in figure.texts] == [title, "DRAFT"]
    assert len(one.patches) == 4  # the diagonal
    for ending in ("png", "pdf"):
        plots.save(figure, tmp_path / f"x.{ending}")
        plots.save(heat_map(table, suite="a$b$c", status="draft"), tmp_path / f"y.{ending}")
        assert (tmp_path / f"x.{ending}").read_bytes() == (tmp_path / f"y.{ending}").read_bytes()
    assert {k: mpl.rcParams[k] for k in before} == before


def test_one_pair_and_no_rows_can_be_drawn(tmp_path: Path) -> None:
    for number, rows in enumerate((frame([trial("esd", "uce")]), TRIALS.empty())):
        plots.save(heat_map(matrix(rows), suite="tiny"), tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 1000
