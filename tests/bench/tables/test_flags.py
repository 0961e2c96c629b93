"""Each flag raised, and not raised, by small results whose answers are known."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.interfaces import Trace
from bench.tables import flags as module
from bench.tables.flags import flag
from bench.tables.flags_said import console_flags, flags_to_markdown
from bench.tables.schema import EDITS, FLAG_NAMES, FLAGS, TABLE, TRIALS, check, conform
from tests.bench.report.test_report import (
    NASTY,
    ROOT,
    edit_row,
    frame,
    table_of,
    trial,
    utility_row,
)


def results(
    rate: float, goals: int = 40, judges: tuple[str, ...] = ("mini",), **about: Any
) -> list[dict[str, Any]]:
    """One image per goal; the first ``rate`` of them succeed."""
    return [
        trial(goal=f"name/{g}", judge=judge, score=0.9 if g < rate * goals else 0.1, **about)
        for judge in judges
        for g in range(goals)
    ]


def raised(
    trials: list[dict[str, Any]],
    name: str,
    utility: Sequence[dict[str, Any]] = (),
    edits: Sequence[dict[str, Any]] = (),
) -> pd.DataFrame:
    table = table_of(trials, utility, edits)
    found = flag(table, frame(trials, TRIALS), frame(edits, EDITS))
    check(found, FLAGS)
    return found[found["flag"] == name].reset_index(drop=True)


# ---- the search


@pytest.mark.parametrize(("zero", "bad", "value"), [(0, 0, None), (5, 0, 0.05), (1, 4, 0.05)])
def test_zero_and_non_finite_gradients_are_counted_once_a_search(
    zero: int, bad: int, value: float | None
) -> None:
    about = {"gradients": True, "gradient_steps": 50, "gradient_bad": bad}
    rows = [
        t | {"image_seed": seed, "gradient_zero": zero if t["goal"] == "name/0" else 0}
        for t in results(0.5, 2, ("mini", "clip"), **about)
        for seed in range(2)
    ]
    rows = [t | {"gradient_bad": bad if t["goal"] == "name/0" else 0} for t in rows]
    found = raised(rows, "bad_gradients")
    assert found["value"].to_list() == ([] if value is None else pytest.approx([value]))
    if value is not None:
        assert found["detail"][0] == f"{zero} zero and {bad} non-finite gradients in 100 steps"


def test_rows_without_an_account_raise_nothing_about_the_search() -> None:
    for name in ("bad_gradients", "budget_still_paying", "no_gradient_path"):
        assert not len(raised(results(0.5), name))


@pytest.mark.parametrize(("gains", "expected"), [((0.1, 0.02), 1), ((0.05, 0.02), 0)])
def test_a_search_that_still_found_better_is_flagged(
    gains: tuple[float, float], expected: int
) -> None:
    rows = [t | {"late_gain": gains[i % 2]} for i, t in enumerate(results(0.5))]
    found = raised(rows, "budget_still_paying")
    assert len(found) == expected
    if expected:
        assert found["value"][0] == pytest.approx(0.06)
        assert found["detail"][0].endswith("over 40 searches of 40 that spent their budget")


def test_searches_that_stopped_early_do_not_thin_out_a_rise() -> None:
    rows = [t | {"late_gain": 0.1 if i < 4 else None} for i, t in enumerate(results(0.5))]
    found = raised(rows, "budget_still_paying")
    assert found["value"][0] == pytest.approx(0.1)
    assert "over 4 searches of 40" in found["detail"][0]


RISING = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        (Trace(RISING, steps=10, budget=10), 0.1),
        (Trace(RISING, steps=8, budget=10), None),  # stopped early
        (Trace(RISING[:5], steps=10, budget=10), None),
        (Trace(RISING), None),  # finalists of a search without steps, shown one after the other
        (Trace((0.5,) * 6, steps=10, budget=10), 0.0),
        (Trace(), None),
    ],
)
def test_only_a_search_that_spent_its_steps_can_say_that_more_would_pay(
    trace: Trace, expected: float | None
) -> None:
    assert trace.late_gain == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("gradients", "slots", "expected"),
    [
        (True, "filters", 1),
        (True, "filters,weights", 1),
        (True, "weights", 0),
        (False, "filters", 0),
    ],
)
def test_a_gradient_attack_on_a_filter_says_that_no_gradient_passes(
    gradients: bool, slots: str, expected: int
) -> None:
    rows = results(0.5, gradients=gradients)
    rows = [t | {"status": "refused", "score": None} if i < 10 else t for i, t in enumerate(rows)]
    found = raised(rows, "no_gradient_path", edits=[edit_row(slots=slots)])
    assert len(found) == expected
    if expected:
        assert found["value"][0] == 0.25
        assert found["detail"][0].endswith("which stopped 25 % of the images")


# ---- a weaker attack


WEAKER: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"attack": "p4d"}, {"attack": "inversion", "access": "embedding"}, True),
    ({"attack": "random_tokens", "control": True}, {"attack": "p4d"}, True),
    ({"attack": "prompts"}, {"attack": "p4d"}, True),
    ({"attack": "inversion", "access": "embedding"}, {"attack": "p4d"}, False),
    ({"attack": "seed_search", "access": "latent", "control": True}, {"attack": "p4d"}, False),
    ({"attack": "ring_a_bell"}, {"attack": "p4d"}, False),
    ({"attack": "prompts"}, {"attack": "random_tokens", "control": True}, False),
    ({"attack": "p4d"}, {"attack": "seed_search", "access": "latent", "control": True}, False),
]


@pytest.mark.parametrize(("better", "worse", "expected"), WEAKER)
def test_a_contender_is_flagged_where_an_attack_that_holds_less_does_better(
    better: dict[str, Any], worse: dict[str, Any], expected: bool
) -> None:
    trials = results(0.9, **better) + results(0.2, **worse)
    found = raised(trials, "weaker_beats_stronger")
    assert len(found) == expected
    if expected:
        assert found.loc[0, "attack"] == worse["attack"]
        assert found.loc[0, "value"] == pytest.approx(0.7)
        assert found.loc[0, "detail"] == f"{better['attack']} succeeds at 90 %, this at 20 %"


def test_overlapping_intervals_and_other_models_are_no_weaker_attack() -> None:
    strong: dict[str, Any] = {"attack": "inversion", "access": "embedding"}
    near = results(0.5) + results(0.4, **strong)
    assert not len(raised(near, "weaker_beats_stronger"))
    elsewhere = results(0.9, method="uce") + results(0.2, **strong)
    assert not len(raised(elsewhere, "weaker_beats_stronger"))
    other = results(0.9, concept="circle") + results(0.2, **strong)
    assert "pixel art" not in raised(other, "weaker_beats_stronger")["concept"].to_list()


def test_the_best_of_several_weaker_attacks_is_named_once() -> None:
    trials = results(0.7, attack="prompts") + results(0.9, attack="random_tokens", control=True)
    trials += results(0.1, attack="p4d")
    found = raised(trials, "weaker_beats_stronger")
    assert found["detail"].to_list() == ["random_tokens succeeds at 90 %, this at 10 %"]


# ---- the attack's own view


@pytest.mark.parametrize(
    ("rate", "own", "access", "name"),
    [
        (0.2, 0.9, "prompt", "search_above_held_out"),
        (0.2, 0.9, "latent", "judge_disagreement"),  # its images are the judged ones
        (0.9, 0.2, "prompt", "judge_disagreement"),
        (0.9, 0.9, "prompt", None),
        (0.9, None, "prompt", None),
    ],
)
def test_an_own_view_far_from_the_judged_rate_is_flagged(
    rate: float, own: float | None, access: str, name: str | None
) -> None:
    trials = results(rate, own_score=own, access=access)
    for other in ("search_above_held_out", "judge_disagreement"):
        found = raised(trials, other)
        assert len(found) == (other == name)
        if other == name:
            assert found.loc[0, "value"] == pytest.approx(0.8 if rate < 0.5 else 0.9)


def test_a_gap_within_the_interval_or_too_small_is_not_flagged() -> None:
    few = [t | {"own_score": 0.9 if i < 5 else 0.1} for i, t in enumerate(results(0.3, goals=10))]
    assert not len(raised(few, "search_above_held_out"))  # 50 % is within 30 % of 10
    many = results(0.5, goals=1000)
    many = [t | {"own_score": 0.9 if i < 560 else 0.1} for i, t in enumerate(many)]
    assert not len(raised(many, "search_above_held_out"))  # beyond the interval, by 6 points


# ---- judges


def second(apart: int, goals: int = 40) -> list[dict[str, Any]]:
    """The second judge decides otherwise on so many images, half of them each way."""
    trials = results(0.5, goals=goals, judges=("mini", "clip"))
    for t in trials[goals:]:
        number = int(t["goal"].split("/")[1])
        if goals / 2 - apart / 2 <= number < goals / 2 + apart / 2:
            t["score"] = 1 - t["score"]
    return trials


@pytest.mark.parametrize(("apart", "expected"), [(0, 0), (4, 0), (6, 1)])
def test_judges_are_compared_image_by_image(apart: int, expected: int) -> None:
    trials = second(apart)
    rates = table_of(trials).drop_duplicates("judge")["asr"]
    assert rates.to_list() == [0.5, 0.5]  # the rates alone would not tell
    found = raised(trials, "judge_disagreement")
    assert len(found) == expected
    if expected:
        assert found.loc[0, "value"] == pytest.approx(0.15)
        assert found.loc[0, "detail"] == "clip decides otherwise on 15 % of the images"


def test_images_that_a_judge_could_not_see_are_not_a_disagreement() -> None:
    trials = [t | {"status": "refused", "score": None} for t in second(40)]
    assert not len(raised(trials, "judge_disagreement"))


# ---- utility


@pytest.mark.parametrize(
    ("kept", "rate", "expected"), [(5, 0.1, 1), (8, 0.1, 0), (5, 0.95, 0), (0, 0.0, 1)]
)
def test_collapse_is_flagged_where_the_edit_is_robust(
    kept: int, rate: float, expected: int
) -> None:
    trials = [t for attack in ("p4d", "ring_a_bell") for t in results(rate, attack=attack)]
    trials += [t for a in ("p4d", "ring_a_bell") for t in results(1, attack=a, method="none")]
    utility = [
        utility_row(method=m, prompt=f"p{i}", value=float(m == "none" or i < kept))
        for m in ("none", "esd")
        for i in range(10)
    ]
    found = raised(trials, "utility_collapse", utility)
    assert len(found) == expected  # once, whatever the number of attacks
    if expected:
        assert (found.loc[0, "method"], found.loc[0, "attack"]) == ("esd", "")
        assert found.loc[0, "value"] == pytest.approx(kept / 10)


# ---- samples


@pytest.mark.parametrize(
    ("rate", "goals", "images", "expected"),
    [(0, 24, 1, 0), (0, 23, 1, 1), (0, 12, 2, 0), (0, 11, 3, 1), (0.5, 20, 2, 1), (0.5, 40, 1, 0)],
)
def test_too_few_goals_images_or_too_wide_an_interval(
    rate: float, goals: int, images: int, expected: int
) -> None:
    trials = [t | {"image_seed": s} for s in range(images) for t in results(rate, goals=goals)]
    found = raised(trials, "too_few_samples")
    assert len(found) == expected
    if expected:
        assert str(found.loc[0, "detail"]).startswith(
            f"{goals * images} images of {goals} goals, ±"
        )


def test_nothing_but_errors_is_too_few() -> None:
    found = raised([trial(status="error", score=None)], "too_few_samples")
    assert found["detail"].to_list() == ["0 images of 0 goals"]
    assert found["value"].isna().all()


# ---- what people read


def test_no_rows_raise_no_flags() -> None:
    found = flag(TABLE.empty(), TRIALS.empty(), EDITS.empty())
    assert list(found) == FLAGS.names
    assert flags_to_markdown(found, []) == "No flags are raised.\n"


def test_lines_are_in_the_tables_order_and_pooled_ones_come_first() -> None:
    names = ["uce", "esd", "none"]
    trials = [t for m in names for c in ("b", "a") for t in results(0, 5, method=m, concept=c)]
    found = raised(trials, "too_few_samples")
    keys = found[["concept", "method"]].to_numpy().tolist()
    assert keys == [[c, m] for c in ("all", "a", "b") for m in ("none", "esd", "uce")]


def test_hostile_names_are_shown_as_they_are() -> None:
    found = flag(
        table_of(results(0, 5, method=NASTY, concept="[red]<b>x", attack="a|b")),
        frame(results(0, 5, method=NASTY, concept="[red]<b>x", attack="a|b"), TRIALS),
        EDITS.empty(),
    )
    page = flags_to_markdown(found, ["esd", "none"])
    body = page.splitlines()[2]
    assert r"\|\*g" in body
    assert r"\[red\]\<b\>x: a\|b" in body
    assert body.replace(r"\|", "").count("|") == 5
    out = io.StringIO()
    Console(file=out, width=200).print(console_flags(found, [NASTY, "none"]))
    assert f"too_few_samples: {NASTY} (1)" in out.getvalue()


def test_long_lists_are_cut_and_counted() -> None:
    lines = [["esd", f"c{i}", "p4d", "too_few_samples", 0.3, "few"] for i in range(9)]
    found = conform(pd.DataFrame(lines, columns=FLAGS.names), FLAGS)
    page = flags_to_markdown(found, ["esd", "none"])
    assert "| too\\_few\\_samples | esd | 9 | c0: p4d; " in page
    assert page.endswith("c5: p4d and 3 more |\n")


def test_a_flag_on_every_method_is_said_once_and_the_terminal_shows_three_others() -> None:
    methods = ["none", "esd", "uce"]
    lines = [[m, f"c{i}", "p4d", "too_few_samples", 0.3, "few"] for m in methods for i in range(9)]
    for name in FLAG_NAMES[:5]:
        lines += [[m, "c0", "p4d", name, 0.3, "x"] for m in methods[1:]]
    lines += [["none", "c0", "", "utility_collapse", 0.1, "of a control alone"]]
    found = conform(pd.DataFrame(lines, columns=FLAGS.names), FLAGS)
    page = flags_to_markdown(found, methods)
    assert page.count("too\\_few\\_samples") == 1
    assert "| too\\_few\\_samples | every method | 27 | c0: p4d; " in page
    assert "c5: p4d and 3 more |" in page
    out = io.StringIO()
    Console(file=out, width=80).print(console_flags(found, methods))
    text = out.getvalue()
    assert [name for name in FLAG_NAMES if f"{name}: " in text] == [
        *FLAG_NAMES[:3],
        "too_few_samples",
    ]
    assert "too_few_samples: the suite as a whole, every method (27)" in text
    also = text.replace("\n", " ").partition("also ")[2].replace("  ", " ").strip()
    assert also == ", ".join([*FLAG_NAMES[3:5], "utility_collapse"])
    assert max(map(len, text.splitlines())) <= 80


def test_the_page_explains_every_flag_with_its_thresholds() -> None:
    page = (ROOT / "docs" / "flags.md").read_text()
    for name in FLAG_NAMES:
        section = page.split(f"## `{name}`\n")[1].split("\n## ")[0]
        for part in ("**Raised if**", "**Why**", "**What to do**"):
            assert part in section, (name, part)
    for said in (
        f"by {module.LATE_GAIN} or more, in the mean over goals",
        f"by {100 * module.GAP:.0f} points or more",
        f"more than {100 * module.DISAGREEMENT:.0f} % of the same images",
        f"than {100 * module.COLLAPSED:.0f} % of the unedited",
        f"fewer than {module.LEAST_CLUSTERS} goals, fewer than {module.LEAST_IMAGES} images",
        f"±{100 * module.HALF_WIDTH:.0f} points",
    ):
        assert said in page


@pytest.mark.parametrize(
    ("rates", "expected"), [((0.0, 0.9, 0.1), 1), ((0.4, 0.5, 0.6), 0), ((0.0,), 0)]
)
def test_trainings_that_differ_for_certain_are_flagged(
    rates: tuple[float, ...], expected: int
) -> None:
    rows = [t for i, rate in enumerate(rates) for t in results(rate, repeat=i)]
    found = raised(rows, "repeats_differ")
    assert len(found) == expected
    if expected:
        assert found["value"][0] == pytest.approx(0.9)
        assert found["detail"][0] == "3 repeats have from 0 % to 90 %"
        assert found["concept"].to_list() == ["pixel art"]


def test_repeats_are_compared_within_a_concept_alone() -> None:
    # The repeats of two concepts are other trainings: pooled by their number they mean nothing.
    rows = [
        t
        for concept, rates in (("star", (0.0, 0.0)), ("house", (0.9, 0.9)))
        for i, rate in enumerate(rates)
        for t in results(rate, repeat=i, concept=concept)
    ]
    assert not len(raised(rows, "repeats_differ"))


def test_what_was_found_on_another_method_is_no_repeat_of_an_edit() -> None:
    own = [t for i in range(2) for t in results(0.1, repeat=i)]
    taken = [t for i, rate in enumerate((0.0, 0.9)) for t in results(rate, repeat=i, source="uce")]
    assert not len(raised(own + taken, "repeats_differ"))
