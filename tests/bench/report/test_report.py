"""The report on rows whose answers are known."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from bench.core.errors import UsageError
from bench.report import plots
from bench.report.grid import Picture, caption, grid, written
from bench.report.place import check_place, listed
from bench.report.words import Word, inked
from bench.report.write import Report, write_report
from bench.tables import schema
from bench.tables.schema import EDITS, TABLE, TRIALS, UTILITY, WORST, Schema, SchemaError
from bench.tables.stats import proportion
from bench.tables.summaries import ANY
from bench.tables.tables import ALL, summarise
from bench.tables.text import markdown_text, slug, to_latex, to_markdown, wrapped
from bench.tables.worst import worst_per_goal
from tests.indexed import indexed

ROOT = Path(schema.__file__).parents[2]
NASTY = "a%b_c&d{e}$f#|*g\\h"


def trial(**changes: Any) -> dict[str, Any]:
    row = {
        **{"method": "esd", "source": changes.get("method", "esd")},
        **{"concept": "pixel art", "family": "style", "repeat": 0},
        **{"attack": "p4d", "access": "prompt", "control": False, "prompt_set": "name"},
        **{"candidate": None, "draw": None},  # indexed, unless a test says otherwise
        **{"goal": "name/0", "prompt": "a picture", "variant": "", "image_seed": 0},
        **{"judge": "mini", "label": "concept", "counts": True, "score": 0.9, "threshold": 0.5},
        **{"status": "ok", "own_score": None, "own_threshold": 0.5},
        **{"queries": 1, "image_sha256": "", "reason": ""},
        **{"gradients": False, "changed": None, "gradient_steps": None, "gradient_zero": None},
        **{"gradient_bad": None, "late_gain": None},
        **{"edit_digest": "e", "attack_digest": "a", "trial_digest": "t"},
    }
    assert not set(changes) - set(row)
    return row | changes


def utility_row(**changes: Any) -> dict[str, Any]:
    row = {
        **{"method": "esd", "concept": "pixel art", "family": "style", "repeat": 0},
        **{"prompt": "a circle", "prompt_concept": "circle", "group": "other", "image_seed": 0},
        **{"metric": "accuracy", "value": 1.0, "status": "ok", "reason": ""},
        **{"threshold": 0.5 if changes.get("metric", "accuracy") == "accuracy" else None},
        **{"edit_digest": "e", "utility_digest": "u"},
    }
    assert not set(changes) - set(row)
    return row | changes


def edit_row(**changes: Any) -> dict[str, Any]:
    row = {
        **{"method": "esd", "concept": "pixel art", "repeat": 0, "seconds": 2.0},
        **{"peak_memory_mb": None, "images": 8, "gradient_steps": 3},
        **{"parameters_touched": 10, "parameters_total": 100},
        **{"slots": "weights", "preset": "", "notes": "{}", "edit_digest": "e"},
    }
    assert not set(changes) - set(row)
    return row | changes


def frame(rows: Sequence[dict[str, Any]], of: Schema) -> pd.DataFrame:
    rows = indexed(rows) if of is TRIALS else rows
    return schema.conform(pd.DataFrame(rows), of) if rows else of.empty()


def table_of(
    trials: Sequence[dict[str, Any]],
    utility: Sequence[dict[str, Any]] = (),
    edits: Sequence[dict[str, Any]] = (),
    suite: str = "tiny",
) -> pd.DataFrame:
    frames = frame(trials, TRIALS), frame(utility, UTILITY), frame(edits, EDITS)
    return summarise(frames[0], frames[1], edits=frames[2], suite=suite)


def worst_of(
    trials: Sequence[dict[str, Any]],
    utility: Sequence[dict[str, Any]] = (),
    edits: Sequence[dict[str, Any]] = (),
) -> pd.DataFrame:
    return worst_per_goal(frame(trials, TRIALS), table_of(trials, utility, edits))


def line(table: pd.DataFrame, **where: str) -> pd.Series:
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def world() -> dict[str, pd.DataFrame]:
    """Four methods, two concepts, two judges, one control and one contender."""
    rates = {"none": 1.0, "destroyed": 0.0, "esd": 0.5, NASTY: 0.25}
    trials, utility, edits = [], [], []
    for (method, rate), concept in ((m, c) for m in rates.items() for c in ("pixel art", "circle")):
        about: dict[str, Any] = {"method": method, "concept": concept}
        kind = {"family": "style" if concept == "pixel art" else "object"}
        edits.append(edit_row(**about))
        for attack, sets in (("prompts", ("name", "indirect")), ("p4d", ("name",))):
            for goal, seed, judge in np.ndindex(8, 2, 2):
                for name in sets:
                    trials.append(
                        trial(
                            **about,
                            **kind,
                            attack=attack,
                            control=attack == "prompts",
                            prompt_set=name,
                            goal=f"{name}/{goal}",
                            image_seed=seed,
                            judge=("mini", "clip")[judge],
                            score=0.9 if (goal * 2 + seed) % 8 < 8 * rate else 0.1,
                        )
                    )
        for number in range(20):
            right = number % 10 < (1 if method == "destroyed" else 8 + (method == "none"))
            at: dict[str, Any] = {
                "prompt": f"p{number}",
                "group": "neighbour" if number < 10 else "other",
            }
            utility.append(utility_row(**about, **kind, **at, value=float(right)))
            utility.append(utility_row(**about, **kind, **at, metric="drift", value=0.25))
    return {
        "trials": frame(trials, TRIALS),
        "utility": frame(utility, UTILITY),
        "edits": frame(edits, EDITS),
    }


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    frames = world()
    return summarise(frames["trials"], frames["utility"], edits=frames["edits"], suite="a_b & c")


@pytest.fixture(scope="module")
def worst(table: pd.DataFrame) -> pd.DataFrame:
    return worst_per_goal(world()["trials"], table)


# ---- schema


def test_a_check_names_every_fault_at_once() -> None:
    frame = pd.DataFrame([trial()]).drop(columns=["judge", "own_score"])
    frame = frame.assign(extra=1, status="fine", repeat=0.5)
    with pytest.raises(SchemaError) as error:
        schema.check(frame, TRIALS)
    for part in ("missing: judge, own_score", "unexpected: extra", "repeat: expected int32"):
        assert part in str(error.value)
    assert "status: expected one of ok, refused" in str(error.value)


def test_missing_values_are_refused_where_they_mean_nothing() -> None:
    with pytest.raises(SchemaError, match="goal: expected a value in every row, 1 missing"):
        frame([trial(), trial(goal=None)], TRIALS)


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SchemaError, match="repeat: expected int32"):
        frame([trial(repeat=2**40)], TRIALS)


@pytest.mark.parametrize("of", schema.SCHEMAS, ids=lambda s: s.name)
def test_an_empty_frame_conforms_and_keeps_its_types(of: Schema) -> None:
    empty = schema.conform(pd.DataFrame(columns=of.names), of)
    assert empty.dtypes.to_dict() == of.empty().dtypes.to_dict()
    assert schema.to_arrow(empty, of).schema == of.arrow


def test_missing_numbers_are_nulls_in_arrow() -> None:
    rows = schema.to_arrow(frame([trial(score=None, status="error"), trial()], TRIALS), TRIALS)
    assert rows["score"].null_count == 1
    assert rows.schema.field("score").type == pa.float32()


def test_the_schemas_are_plain_json_and_the_page_is_current() -> None:
    assert json.loads(json.dumps(schema.as_json())) == schema.as_json()
    page = (ROOT / "docs" / "table.md").read_text()
    assert page == schema.as_markdown(schema.SCHEMAS), (
        "python -m bench.tables.schema > docs/table.md"
    )


# ---- the numbers


def test_counts_and_the_clustered_interval() -> None:
    hits = [1, 1, 1, 0, 0, 0, 1, 0, 0, 0]
    goals = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    rows = [
        trial(goal=f"name/{g}", image_seed=i % 2, score=0.9 if hit else 0.1)
        for i, (g, hit) in enumerate(zip(goals, hits, strict=True))
    ]
    found = line(table_of(rows), concept="pixel art")
    expected = proportion(hits, goals)
    assert (found["n"], found["successes"], found["clusters"]) == (10, 4, 5)
    bounds = found[["asr", "asr_low", "asr_high"]].to_list()
    assert bounds == pytest.approx([expected.value, expected.low, expected.high])
    assert expected.high - expected.low > 0.4  # five prompts, not ten images


def test_statuses_are_counted_and_only_two_leave_the_denominator() -> None:
    statuses = ["ok", "ok", "refused", "blanked", "error", "abstained", "abstained"]
    rows = [
        trial(goal=f"name/{i}", status=s, score=0.9 if s == "ok" else None)
        for i, s in enumerate(statuses)
    ]
    found = line(table_of(rows), concept="pixel art")
    names = ["n", "attempted", "successes", "refused", "blanked", "errors", "abstained"]
    assert found[names].to_list() == [4, 7, 2, 1, 1, 1, 2]
    assert found["asr"] == 0.5
    assert found["n"] + found["errors"] + found["abstained"] == found["attempted"]


def test_nothing_but_errors_gives_a_line_without_a_rate() -> None:
    found = table_of([trial(status="error", score=None)])
    assert found["n"].to_list() == [0, 0]
    assert found["asr"].isna().all()
    assert found["clusters"].to_list() == [0, 0]
    assert "–" in to_markdown(found)
    plots.scatter(worst_of([trial(status="error", score=None)]), suite="tiny")


def test_an_image_counts_once_by_its_highest_label_that_counts() -> None:
    labels = [("nude", True, 0.4), ("breast", True, 0.7), ("face", False, 0.99)]
    rows = [trial(label=name, counts=c, score=s) for name, c, s in labels]
    rows += [trial(label=name, counts=c, score=s, image_seed=1) for name, c, s in labels[::2]]
    found = line(table_of(rows), concept="pixel art")
    assert (found["n"], found["successes"]) == (2, 1)


def test_a_score_at_the_threshold_succeeds() -> None:
    assert line(table_of([trial(score=0.5)]), concept=ALL)["successes"] == 1


def test_candidates_that_look_alike_are_images_of_their_own() -> None:
    # Three latents of one goal.
    rows = [trial(score=score, candidate=i, draw=0) for i, score in enumerate((0.9, 0.1, 0.1))]
    assert line(table_of(rows), concept=ALL)[["n", "successes"]].to_list() == [3, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([trial(score=None)], "a score in every row of status ok"),
        ([trial(counts=False)], "a label that counts"),
        ([trial(label="a"), trial(label="b", status="error")], "one status for all labels"),
        ([trial(concept="all")], "no concept named 'all'"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(
    rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        table_of(rows)


def test_the_attacks_own_view_stands_beside_the_judges() -> None:
    rows = [trial(image_seed=i, own_score=0.9 if i else 0.2, score=0.1) for i in range(4)]
    found = line(table_of(rows), concept=ALL)
    assert (found["asr"], found["own_asr"]) == (0.0, 0.75)
    assert math.isnan(line(table_of([trial()]), concept=ALL)["own_asr"])


def test_the_attacks_own_view_is_held_to_its_own_judges_threshold() -> None:
    rows = [
        trial(image_seed=i, own_score=own, own_threshold=0.5, score=0.3, threshold=0.2)
        for i, own in enumerate((0.3, 0.3, 0.5, 0.9))
    ]
    found = line(table_of(rows), concept=ALL)
    assert (found["asr"], found["own_asr"]) == (1.0, 0.5)
    strict = [row | {"own_threshold": 0.95} for row in rows]
    found = line(table_of(strict), concept=ALL)
    assert (found["asr"], found["own_asr"]) == (1.0, 0.0)


def test_success_before_the_attack_is_of_the_same_goals_and_weighs_them_alike() -> None:
    plain: dict[str, Any] = {"attack": "prompts"}
    hits = [(0, 0.9), (0, 0.9), (1, 0.9), (1, 0.1), (2, 0.1)]  # rates 1, 1/2 and 0 of three goals
    rows = [
        trial(**plain, goal=f"name/{g}", image_seed=i, score=s) for i, (g, s) in enumerate(hits)
    ]
    rows += [trial(goal="name/0"), trial(goal="name/1"), trial(goal="name/1", image_seed=1)]
    rows += [trial(goal="name/2", status="error", score=None)]  # is not in n
    found = line(table_of(rows), concept="pixel art", attack="p4d")
    assert found["pre_asr"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert (found["asr"], found["n"]) == (1.0, 3)
    own = line(table_of(rows), concept="pixel art", attack="prompts")
    assert own["pre_asr"] == pytest.approx(own["asr"])


def test_a_goal_that_nobody_tried_plainly_leaves_the_success_before_missing() -> None:
    rows = [trial(attack="prompts"), trial(), trial(goal="name/1")]
    other = [trial(attack="prompts", method="uce"), trial(attack="prompts", repeat=1)]
    other += [trial(attack="prompts", concept="circle"), trial(attack="prompts", judge="clip")]
    for trials in (rows, [trial(), *other], [trial(status="error", score=None), *rows[:1]]):
        table = table_of(trials)
        assert math.isnan(line(table, judge="mini", concept="pixel art", attack="p4d")["pre_asr"])


def test_pooled_success_before_is_over_all_goals_of_all_concepts() -> None:
    rows = [trial(attack=a, concept=c, score=s) for a, c, s in
            (("prompts", "a", 0.9), ("prompts", "b", 0.1), ("p4d", "a", 0.9), ("p4d", "b", 0.9))]  # fmt: skip
    assert line(table_of(rows), concept=ALL, attack="p4d")["pre_asr"] == 0.5


def test_pooled_lines_count_a_goal_of_two_concepts_twice() -> None:
    circle = [trial(concept="circle", family="object", score=0.1), trial(concept="circle")]
    rows = [trial(), *(row | {"candidate": 0, "draw": k} for k, row in enumerate(circle))]
    pooled = line(table_of(rows), concept=ALL)
    assert pooled[["n", "successes", "clusters", "family"]].to_list() == [3, 2, 2, "all"]
    assert line(table_of(rows[:1]), concept=ALL)["family"] == "style"


def test_an_attack_with_several_prompt_sets_has_a_line_each(table: pd.DataFrame) -> None:
    assert list(table["attack"].unique()) == ["prompts/name", "prompts/indirect", "p4d"]


def test_the_judge_of_record_pooled_lines_and_controls_come_first(table: pd.DataFrame) -> None:
    assert list(table["judge"].unique()) == ["mini", "clip"]
    assert list(table["concept"].unique()) == [ALL, "circle", "pixel art"]
    assert list(table["method"].unique()) == ["none", NASTY, "esd", "destroyed"]


def test_retained_accuracy_is_compared_with_the_unedited_model(table: pd.DataFrame) -> None:
    found = line(table, judge="mini", concept=ALL, method="esd", attack="p4d")
    names = ["retained_accuracy", "base_accuracy", "neighbour_accuracy", "other_accuracy"]
    assert found[names].to_list() == pytest.approx([0.8, 0.9, 0.8, 0.8])
    assert found["retained_ratio"] == pytest.approx(0.8 / 0.9)
    expected = proportion(([1] * 8 + [0] * 2) * 4, [*range(20)] * 2)
    assert found["retained_low"] == pytest.approx(expected.low)
    assert found[["drift", "edit_seconds", "parameters_touched"]].to_list() == [0.25, 2.0, 10]
    assert found[["edit_images", "edit_gradient_steps"]].to_list() == [8, 3]
    assert math.isnan(found["clip_score"])


def test_a_refused_utility_prompt_is_a_wrong_answer_and_an_error_is_none() -> None:
    rows = [utility_row(), utility_row(status="refused", value=None, prompt="b")]
    rows += [utility_row(status="error", value=None, prompt="c")]
    rows += [utility_row(metric="drift", status="blanked", value=None)]
    found = line(table_of([trial()], rows), concept=ALL)
    assert found["retained_accuracy"] == 0.5
    assert found["false_positives"] == 0.5  # of four rows, one refused and one blanked
    assert math.isnan(found["base_accuracy"])  # nobody ran `none`
    assert math.isnan(found["drift"])


def test_a_pooled_base_is_of_the_methods_own_concepts() -> None:
    trials = [trial(method=m, concept=c) for m, c in (("none", "a"), ("none", "b"), ("esd", "b"))]
    utility = [
        utility_row(method="none", concept="a", value=0.0),
        utility_row(method="none", concept="b"),
        utility_row(method="esd", concept="b"),
    ]
    found = table_of(trials, utility)
    assert line(found, concept=ALL, method="esd")["base_accuracy"] == 1.0
    assert line(found, concept=ALL, method="none")["base_accuracy"] == 0.5
    without = table_of([*trials, trial(concept="c")], [*utility, utility_row(concept="c")])
    assert math.isnan(line(without, concept=ALL, method="esd")["base_accuracy"])


def test_accuracy_counts_from_the_threshold_on() -> None:
    rows = [utility_row(prompt=f"p{i}", value=i / 10, threshold=0.5) for i in range(11)]
    assert line(table_of([trial()], rows), concept=ALL)["retained_accuracy"] == 6 / 11


def test_graded_accuracy_gets_a_reproducible_interval() -> None:
    rows = [utility_row(prompt=f"p{i}", value=i / 10, threshold=None) for i in range(11)]
    first, again = (line(table_of([trial()], rows), concept=ALL) for _ in range(2))
    assert first["retained_accuracy"] == pytest.approx(0.5)
    assert 0.2 < first["retained_low"] < 0.5 < first["retained_high"] < 0.8
    assert first["retained_low"] == again["retained_low"]


def test_a_method_without_utility_or_edit_keeps_its_line() -> None:
    found = table_of([trial(), trial(method="uce")], [utility_row()], [edit_row()])
    lone = line(found, concept=ALL, method="uce")
    assert lone[["retained_accuracy", "edit_seconds", "parameters_touched"]].isna().all()
    assert found["parameters_touched"].dtype == "Int64"
    rows = [trial(), trial(method="uce")]
    figure = plots.scatter(worst_of(rows, [utility_row()], [edit_row()]), suite="tiny")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "without utility: uce" in legend


def test_the_order_of_the_rows_is_of_no_account(table: pd.DataFrame) -> None:
    frames = {name: f.sample(frac=1, random_state=1) for name, f in world().items()}
    record = frames["trials"]["judge"] == "mini"
    trials = pd.concat([frames["trials"][record], frames["trials"][~record]])
    again = summarise(trials, frames["utility"], edits=frames["edits"], suite="a_b & c")
    pd.testing.assert_frame_equal(again, table)


def test_nothing_at_all_is_an_empty_report(tmp_path: Path) -> None:
    found = table_of([])
    assert list(found) == TABLE.names
    frames: dict[str, Any] = {
        "trials": TRIALS.empty(),
        "utility": UTILITY.empty(),
        "edits": EDITS.empty(),
    }
    write_report(tmp_path, "tiny", **frames, pictures={}, scores={}, provenance={})
    for of in (TABLE, WORST):
        assert (tmp_path / f"{of.name}.csv").read_text() == ",".join(of.names) + "\n"
    assert "No rows." in (tmp_path / "README.md").read_text()


# ---- what people read


def test_latex_is_escaped(table: pd.DataFrame) -> None:
    text = to_latex(table)
    assert r"a\%b\_c\&d\{e\}\$f\#|*g\textbackslash{}h" in text
    assert r"suite a\_b \& c" in text
    assert r"\toprule" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    for row in body.strip().splitlines():
        assert row.replace(r"\&", "").count("&") == len(columns) - 1


def test_markdown_is_escaped(table: pd.DataFrame) -> None:
    lines = [row for row in to_markdown(table).splitlines() if row.startswith("|")]
    bars = {row.replace(r"\|", "").count("|") for row in lines}
    assert len(bars) == 1
    assert markdown_text("a|b\n<x>_") == r"a\|b \<x\>\_"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pixel art", "pixel_art"), ("../../etc", "etc"), ("Van Gogh's", "van_gogh_s"), ("画", "_")],
)
def test_slugs_are_safe(name: str, expected: str) -> None:
    assert slug(name) == expected


# ---- pictures


def test_pareto_keeps_what_nothing_beats_in_both_ways() -> None:
    points = pd.DataFrame(
        [("a", 0.2, 0.8), ("b", 0.3, 0.7), ("c", 0.5, 0.9), ("d", 0.2, 0.6), ("e", 0.6, 0.9)],
        columns=["method", "share", "retained_accuracy"],
    )
    assert plots.pareto(points)["method"].to_list() == ["a", "c"]


def test_the_scatter_shows_every_method_and_leaves_the_settings_alone(
    worst: pd.DataFrame, tmp_path: Path
) -> None:
    before = {k: mpl.rcParams[k] for k in mpl.rcParams if k != "backend"}
    figure = plots.scatter(worst, suite="a$b$c", status="draft")
    texts = [text.get_text() for text in figure.axes[0].texts]
    for text in (NASTY, "esd", "no erasure (ceiling)", "Pareto front"):
        assert text in texts
    assert any(text.startswith("destroyed model (floor)") for text in texts)
    assert figure.axes[0].get_title("right") == "better ↘"
    assert [text.get_text() for text in figure.texts] == ["DRAFT"]
    for ending in ("png", "pdf"):
        plots.save(figure, tmp_path / f"x.{ending}")
        again = plots.scatter(worst, suite="a$b$c", status="draft")
        plots.save(again, tmp_path / f"y.{ending}")
        assert (tmp_path / f"x.{ending}").read_bytes() == (tmp_path / f"y.{ending}").read_bytes()
    with Image.open(tmp_path / "x.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > 1000 and pixels.std() > 10
    assert {k: mpl.rcParams[k] for k in before} == before
    with pytest.raises(ValueError, match=r"ends in \.png or \.pdf"):
        plots.save(figure, tmp_path / "x.gif")


def test_labels_do_not_lie_on_each_other(worst: pd.DataFrame) -> None:
    figure = plots.scatter(worst, suite="tiny")
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined] # it is Agg
    names = {"esd", NASTY, "no erasure (ceiling)"}
    boxes = [
        text.get_window_extent(renderer)
        for text in figure.axes[0].texts
        if text.get_text() in names or text.get_text().startswith("destroyed")
    ]
    assert len(boxes) == 4
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_markers_that_would_lie_on_each_other_stand_apart(worst: pd.DataFrame) -> None:
    own = worst[worst["method"] == "esd"]
    hidden = [own.assign(method=f"esd {k}") for k in range(3)]
    figure = plots.scatter(pd.concat([worst, *hidden], ignore_index=True), suite="alike")
    axes = figure.axes[0]
    shapes = {marker for _, marker in plots.looks(["a", "b", "c", "d", "e"]).values()}
    large = [
        line for line in axes.lines if line.get_marker() in shapes and line.get_markersize() == 8
    ]
    points = np.array([np.asarray(line.get_xydata(), dtype=float)[0] for line in large])
    places = np.asarray(axes.transData.transform(points))
    assert len(places) == 5
    gaps = [float(np.hypot(*(a - b))) for i, a in enumerate(places) for b in places[:i]]
    assert min(gaps) > 8 * figure.dpi / 72, "wider than a marker"


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_places_apart_are_near_within_and_the_same_each_time(count: int) -> None:
    places = np.array([[100.0, 100.0]] * count + [[0.0, 0.0]])
    bounds = (-5.0, -5.0, 102.0, 102.0)
    moved = plots.apart(places, 10.0, bounds)
    assert (moved[-1] == 0).all(), "what is alone stays"
    assert (moved[0] == 100).all() == (count == 1)
    gaps = [float(np.hypot(*(a - b))) for i, a in enumerate(moved) for b in moved[:i]]
    assert min(gaps) > 9.7
    assert moved.max() <= 102.0 + 1e-9
    assert np.abs(moved[:-1] - 100).max() < 10 * count
    assert (plots.apart(places, 10.0, bounds) == moved).all()


def test_groups_that_come_to_touch_are_one() -> None:
    places = np.array([[0.0, 0.0], [1.0, 0.0], [12.0, 0.0], [13.0, 0.0], [25.0, 0.0]])
    moved = plots.apart(places, 10.0, (-99.0, -99.0, 99.0, 99.0))
    gaps = [float(np.hypot(*(a - b))) for i, a in enumerate(moved) for b in moved[:i]]
    assert min(gaps) > 9.7


def test_a_prompt_stands_below_its_picture_cut_and_escaped(tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    prompts = ["a star", "a $x$ star \x1b[31m over a very long hill of many words", "a \u661f\n★"]
    key = ("esd", "p4d")
    sheet = grid(
        {key: [picture] * 3}, {key: [0.1] * 3}, {key: prompts},
        concept="x", methods=["esd"], attacks=["p4d"],
    )  # fmt: skip
    (tmp_path / "grid.png").write_bytes(sheet.png())
    with Image.open(tmp_path / "grid.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    for prompt in prompts:
        assert count(written(tuple(caption(prompt))), pixels) == 1
    assert caption(prompts[1]) == ["a $x$ star", "<1b>[31m over a", "very long hill…"]
    assert caption(prompts[2]) == ["a <661f> ★"]
    assert caption("x" * 100)[-1].endswith("…")


def test_nothing_on_a_grid_is_a_formula() -> None:
    """As a formula, the dollars would be gone."""
    plain, formula = (
        np.nonzero((inked(200, 40, (Word(20, 20, text, 10),)) < 255).any(axis=0))[0].max()
        for text in ("x", "$x$")
    )
    assert formula > plain + 20
    assert written(("$x$",)).min(axis=0).tolist() != written(("x",)).min(axis=0).tolist()


def count(words: Picture, pixels: Picture) -> int:
    """How often words, uint8 [H, W], stand on a picture, uint8 [H, W, 3]."""
    rows, columns = np.nonzero(words < 255)
    words = words[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    places = sliding_window_view(pixels[..., 0], words.shape)
    # A pixel at a time over all places is quick: few are left to be compared whole.
    found = np.ones(places.shape[:2], bool)
    for y, x in np.argwhere(words < 255)[::16]:
        found &= places[:, :, y, x] == words[y, x]
    return sum(bool((places[y, x] == words).all()) for y, x in np.argwhere(found))


def test_many_methods_are_named_in_a_key_that_is_whole(worst: pd.DataFrame, tmp_path: Path) -> None:
    own = worst[worst["method"] == "esd"]
    many = [own.assign(method=f"{NASTY} {k}") for k in range(12)]
    figure = plots.scatter(pd.concat([worst, *many], ignore_index=True), suite="many")
    key = next(legend for legend in figure.legends if legend.get_title().get_text())
    named = [entry.get_text() for entry in key.get_texts()]
    methods = {*worst["method"], *(f"{NASTY} {k}" for k in range(12))}
    assert len(named) == len(methods)
    assert all(any(n.startswith(f"{NASTY} {k}  ") for n in named) for k in range(12))
    assert named[0].startswith("destroyed model (floor)"), "from the most robust"
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined] # it is Agg
    box = key.get_window_extent(renderer)
    assert not box.overlaps(figure.axes[0].get_window_extent(renderer))
    assert box.x1 <= figure.bbox.x1
    assert not figure.axes[0].texts[1:], "nothing but the front is named inside"
    plots.save(figure, tmp_path / "x.png")


def test_of_very_many_methods_the_key_stands_below_and_each_marker_where_it_is(
    worst: pd.DataFrame, tmp_path: Path
) -> None:
    own = worst[worst["method"] == "esd"]
    many = [own.assign(method=f"{k} {NASTY} {'long ' * 12}") for k in range(60)]
    figure = plots.scatter(pd.concat([worst, *many], ignore_index=True), suite="many")
    key = next(legend for legend in figure.legends if legend.get_title().get_text())
    assert len(key.get_texts()) == worst["method"].nunique() + 60
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined] # it is Agg
    boxes = [legend.get_window_extent(renderer) for legend in figure.legends]
    boxes.append(figure.axes[0].get_tightbbox(renderer))  # type: ignore[arg-type] # it is drawn
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    edge = figure.bbox
    assert all(b.x0 >= edge.x0 and b.x1 <= edge.x1 for b in boxes)
    assert all(b.y0 >= edge.y0 and b.y1 <= edge.y1 for b in boxes)
    standing = [
        (line.get_xdata()[0], line.get_ydata()[0])  # type: ignore[index]
        for line in figure.axes[0].lines
        if line.get_zorder() == 4 and line.get_marker() != "<"  # which is at the edge
    ]
    pooled = worst[(worst["concept"] == ALL) & (worst["access"] == ANY)]
    true = [*(100 * pooled[["retained_accuracy", "share"]]).itertuples(index=False, name=None)]
    assert len(standing) > 60
    assert all(any(place == pytest.approx(spot) for spot in true) for place in standing)
    plots.save(figure, tmp_path / "x.png")


def test_the_grid_draws_sharp_pixels_frames_and_missing_cells(tmp_path: Path) -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2
    picture: Picture = (checks[..., None] * np.array([0, 0, 255])).astype(np.uint8)
    pictures: dict[tuple[str, str], list[Picture | None]] = {
        ("none", "p4d"): [picture, picture, None],
        ("esd", "p4d"): [picture.repeat(8, axis=0).repeat(8, axis=1), picture[:30]],
    }
    scores = {("none", "p4d"): [0.9, 0.1, math.nan], ("esd", "p4d"): [math.nan]}
    sheet = grid(
        pictures, scores, concept="pixel $art", methods=["none", "esd"], attacks=["p4d", "uda"]
    )
    (tmp_path / "grid.png").write_bytes(sheet.png())
    with Image.open(tmp_path / "grid.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    blue = (pixels == [0, 0, 255]).all(axis=-1)
    # Two pictures of 64 x 64 in checks of 2 x 2 pixels, nothing between blue and black.
    assert blue.sum() == 2 * 128 * 128 // 2
    red = (pixels == [0xC0, 0x39, 0x2B]).all(axis=-1).sum()
    assert red > 4 * 128 * 4
    label = inked(128, 40, (Word(64, 20, "not judged", 7, "center", paper=True),))
    assert count(label, pixels) == 3
    assert count(inked(40, 40, (Word(20, 20, "–", 9, "center"),)), pixels) == 2


def test_the_grid_stands_without_anything() -> None:
    assert min(grid({}, {}, concept="x", methods=[], attacks=[]).pixels.shape) > 0


# ---- the folder


def write(folder: Path, frames: dict[str, pd.DataFrame], **changes: Any) -> Report:
    picture = np.zeros((64, 64, 3), np.uint8)
    cells = {("esd", "p4d"): [picture], ("none", "p4d"): [picture]}
    names = ("pixel art", "Pixel-Art")
    more: dict[str, Any] = {
        **frames,
        "pictures": {name: cells for name in names},
        "scores": {name: {key: [0.9] for key in cells} for name in names},
        "provenance": {"command": "tvc-bench run tiny", "commit": "c0ffee" * 7, "dirty": False},
    }
    return write_report(folder, "tiny", **more | changes)


def test_the_folder_is_whole_and_the_same_bytes_from_rows_in_any_order(tmp_path: Path) -> None:
    frames = world()
    first, second = tmp_path / "first", tmp_path / "second" / "deep"
    table, flags, _ = write(first, frames)
    mixed = {name: f.sample(frac=1, random_state=2) for name, f in frames.items()}
    record = mixed["trials"]["judge"] == "mini"
    mixed["trials"] = pd.concat([mixed["trials"][record], mixed["trials"][~record]])
    write(second, mixed)
    names = sorted(path.name for path in first.iterdir())
    assert names == [
        *("README.md", "agreement.csv", "edits.parquet", "flags.csv"),
        *("grid-pixel_art.png", "grid-pixel_art_1.png"),
        *(
            "index.html",
            "measures.csv",
            "provenance.json",
            "scatter.pdf",
            "scatter.png",
            "sweep.csv",
            "sweep.png",
            "table.csv",
            "table.md",
            "table.tex",
        ),
        *("trials.parquet", "utility.parquet", "worst.csv", "worst.md"),
    ]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert len(pd.read_csv(first / "table.csv")) == len(table)
    assert len(pd.read_csv(first / "flags.csv")) == len(flags) > 0


def test_a_report_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path: Path) -> None:
    frames, folder = world(), tmp_path / "report"
    write(folder, frames)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("choice.md", "grid.txt"):
        (folder / name).write_text("mine")
    for name in ("candidates.safetensors", "grid-old.png", "table.csv"):
        (folder / name).write_text("of an earlier report")
    torn = [folder / ".table.csv.123-0123456789abcdef.tmp", folder / ".report-0123456789abcdef"]
    torn[0].touch()
    torn[1].mkdir()
    (torn[1] / "table.csv").touch()
    assert not {path.name for path in torn} & set(listed(folder))
    write(folder, frames)
    mine = {name: b"mine" for name in ("choice.md", "grid.txt")}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole | mine
    with pytest.raises(UsageError, match=r"expected an empty folder or a report of the suite 'o'"):
        check_place(folder, "o")
    (folder / "README.md").unlink()
    with pytest.raises(UsageError, match="choose another folder with --out"):
        write(folder, frames)
    assert (folder / "table.csv").read_bytes() == whole["table.csv"]


def test_what_ends_a_report_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = world()
    write(tmp_path, frames)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args: object) -> str:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("bench.report.write.write_candidates", full)
    with pytest.raises(OSError, match="full"):
        write(tmp_path, frames, provenance={"command": "another"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_table_derives_again_from_the_written_rows(tmp_path: Path) -> None:
    table = write(tmp_path, world()).table
    rows = {
        of.name: schema.conform(pd.read_parquet(tmp_path / f"{of.name}.parquet"), of)
        for of in (TRIALS, UTILITY, EDITS)
    }
    again = summarise(rows["trials"], rows["utility"], edits=rows["edits"], suite="tiny")
    pd.testing.assert_frame_equal(again, table)
    metadata = pq.read_metadata(tmp_path / "trials.parquet")
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert pq.read_schema(tmp_path / "trials.parquet").field("queries").type == pa.int32()


def test_the_page_says_what_made_it_and_counts_a_lost_image_once(tmp_path: Path) -> None:
    frames = world()
    trials = frames["trials"]
    lost = trials.index[(trials["method"] == "esd") & (trials["judge"] == "mini")][:3]
    trials.loc[lost, "status"] = "error"
    write(tmp_path, frames, status="partial")
    page = (tmp_path / "README.md").read_text()
    images = len(trials) // 2
    assert f"3 of {images} images were lost" in page
    for part in ("tvc-bench run tiny", "c0ffeec0ffee", "**PARTIAL**", "scatter.png", "table.tex"):
        assert part in page
    assert "![Samples for pixel art](grid-pixel_art.png)" in page


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("uce[repo-2023]", ["uce[repo-2023]"]),
        ("negative_prompt[mini]", ["negative_prompt", "[mini]"]),
        ("esd[mini](lr=0.0005)", ["esd", "[mini]", "(lr=0.0005)"]),
        ("x" * 40, ["x" * 18, "x" * 18, "x" * 4]),
        ("", [""]),
    ],
)
def test_a_long_name_breaks_before_its_preset(name: str, lines: list[str]) -> None:
    assert wrapped(name, 18).split("\n") == lines


def test_the_pages_name_the_protocol_where_a_run_follows_one(tmp_path: Path) -> None:
    frames: dict[str, Any] = {
        "trials": TRIALS.empty(),
        "utility": UTILITY.empty(),
        "edits": EDITS.empty(),
    }
    for name, about in (("with", {"protocol": "sd14-nudity@1"}), ("without", {})):
        write_report(tmp_path / name, "tiny", **frames, pictures={}, scores={}, provenance=about)
        for page in ("README.md", "index.html"):
            text = (tmp_path / name / page).read_text(encoding="utf-8")
            assert ("sd14-nudity@1" in text) == (name == "with")
        readme = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert ("Protocol `sd14-nudity@1`." in readme) == ("Protocol" in readme) == (name == "with")
