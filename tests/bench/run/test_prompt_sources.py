"""Goals and captions that a suite takes from a user's files, from the plan to the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import api
from bench.config.suite import Suite, load_suite
from bench.core.errors import UsageError
from bench.interfaces import registry
from bench.model.guidance import NegativePrompt
from bench.model.text_to_image import TextToImage
from bench.publish import Asked, publish
from bench.run.cells import AttackCell, Cell, MeasuredCell, ReferenceCell, TrialCell
from bench.run.plan import Plan, make_plan
from bench.run.runner import run_plan
from bench.run.stages.drawn import drawn
from bench.run.store import Store
from tests.tiny import SUITE

CONTROLS = ["prompts", "random_tokens", "seed_search"]
ROWS = (
    "case_number,prompt,evaluation_seed,evaluation_guidance\n"
    "0,a red star,11,3\n1,a star at night,12,5\n2,a child and a star,13,5\n3,two stars,14,3\n"
)
CAPTIONS = (
    "case_number,source,prompt,evaluation_seed\n0,coco,a red fish,21\n1,coco,a Star on a hill,22\n"
    "2,coco,a girl with a fish,23\n3,coco,a blue\nring,24\n4,coco,a heart,25\n"
)


def small(**changes: Any) -> Suite:
    """Controls alone, one concept, two steps."""
    about: dict[str, Any] = {
        **{"name": "tiny", "concepts": ["star"], "attacks": CONTROLS, "goals": 2},
        **{"sampler": {"steps": 2, "guidance_scale": 3.0}, "keep_images": 1},
        **{"methods": ["none", "destroyed"], "utility": {"neighbours": 0, "others": 0}},
    }
    return load_suite("mini-quick").with_(**{**about, **changes})


def planned(suite: Suite, **options: Any) -> Plan:
    return make_plan(suite, "0" * 64, **options)


def digests(plan: Plan, kind: type[Cell]) -> list[str]:
    return [cell.digest for cell in plan.cells if isinstance(cell, kind)]


def goals_in(plan: Plan) -> dict[str, list[str]]:
    """The prompts of each attack's goals on the unedited model."""
    return {
        c.attack_label: [goal.prompt for goal in c.goals]
        for c in plan.cells
        if isinstance(c, AttackCell) and c.method_label == "none"
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "church.csv"
    path.write_text(ROWS)
    return path


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "coco.csv"
    path.write_text(CAPTIONS.replace("a blue\nring", '"a blue\nring"'))
    return path


# -- goals of a file -----------------------------------------------------------------------------

ALL = ["a red star", "a star at night", "two stars"]


@pytest.mark.parametrize("name", registry.names("attack"))
def test_every_attack_takes_the_rows_of_a_file_as_its_goals(name: str, file: Path) -> None:
    mine = {name: {"goals": {"file": str(file)}, "as": "mine"}}
    if name == "prompts":  # whose name is fixed
        mine = {name: {"goals": {"file": str(file)}}}
    others = [control for control in CONTROLS if control != name or name != "prompts"]
    plan = planned(small(attacks=[*others, mine]))
    label = "prompts(goals=church.csv)" if name == "prompts" else "mine"
    assert goals_in(plan)[label] == ALL
    of_file = [c for c in plan.cells if isinstance(c, TrialCell) and c.attack_label == label]
    assert {goal.prompt_set for cell in of_file for goal in cell.goals} == {"file"}
    assert {(cell.images, len(cell.draws)) for cell in of_file} == {(1, 0)}
    assert plan.warnings == (
        f"goals of {name}, church.csv: 4 rows, 1 withheld as they may speak of minors: N = 3",
        f"goals of {name}, church.csv: the layout of UnlearnDiffAtk: prompts from the column prompt",
        f"goals of {name}, church.csv: sampled as the suite says; draws: file would use "
        "evaluation_seed, evaluation_guidance",
    )


def test_the_goals_of_a_suite_may_be_the_rows_of_a_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("prompt\na moon\n")
    other = {"file": str(tmp_path / "other.csv")}
    attacks = [
        *("prompts", "random_tokens", {"seed_search": {"goals": 1}}),
        {"seed_search": {"goals": other, "as": "own goals"}},
        {"prompts": other},
    ]
    suite = small(attacks=attacks, goals={"file": str(file)})
    plan = planned(suite)
    assert goals_in(plan) == {
        "prompts": ALL,
        "random_tokens": ALL,
        "seed_search(goals=1)": ALL[:1],
        "own goals": ["a moon"],
        "prompts(file=other.csv)": ["a moon"],
    }
    assert str(tmp_path) not in " ".join(goals_in(plan)) + " ".join(plan.warnings)
    ids = {g.id for c in plan.cells if isinstance(c, AttackCell) for g in c.goals}
    assert len(ids) == 5  # rows of different files are different goals
    assert goals_in(planned(suite, limit=2))["prompts"] == ALL[:2]
    fewer = small(goals={"file": str(file), "limit": 1})
    assert goals_in(planned(fewer))["random_tokens"] == ALL[:1]
    assert planned(fewer).warnings[0] == (
        "prompts, random_tokens, seed_search: the first 1 goals are tried, out of 3 of star; raise the "
        "file's limit (or --limit) to try more"
    )


def test_the_content_of_a_file_of_goals_is_in_the_digests_and_its_place_is_not(
    file: Path, tmp_path: Path
) -> None:
    suite, inner = small(goals={"file": str(file)}), {"goals": {"file": str(file)}}
    per_attack = small(attacks=["prompts", {"random_tokens": inner}, "seed_search"])
    before, nested = planned(suite), planned(per_attack)
    assert before.suite_digest == suite.digest
    assert nested.suite_digest == per_attack.digest
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(file, tmp_path / "elsewhere" / "church.csv"))
    again = planned(small(goals={"file": str(moved)}))
    assert [c.digest for c in again.cells] == [c.digest for c in before.cells]
    assert again.suite_digest == before.suite_digest
    file.write_text(ROWS.replace("a red star", "a green star"))
    after = planned(suite)
    assert not {*digests(after, AttackCell)} & {*digests(before, AttackCell)}
    assert after.suite_digest == suite.digest != before.suite_digest
    assert planned(per_attack).suite_digest != nested.suite_digest


def test_draws_of_the_file_are_in_the_trials_alone(file: Path) -> None:
    source = {"file": str(file)}
    plain = planned(small(goals=source, seeds=3, transfer=["prompts"]))
    asked = small(goals={**source, "draws": "file"}, seeds=3, transfer=["prompts"])
    plan = planned(asked)
    assert digests(plan, AttackCell) == digests(plain, AttackCell)
    assert not {*digests(plan, TrialCell)} & {*digests(plain, TrialCell)}
    assert plan.suite_digest == asked.digest != plain.suite_digest
    trials = [cell for cell in plan.cells if isinstance(cell, TrialCell)]
    assert any(cell.source for cell in trials)
    for cell in trials:
        assert cell.images == 1
        drawn_as = [(cell.draws[g.id].seed, cell.draws[g.id].guidance) for g in cell.goals]
        assert drawn_as == [(11, 3.0), (12, 5.0), (14, 3.0)]
    assert any("sampled as the file says, one image per row" in line for line in plan.warnings)


def test_an_attack_of_a_file_with_its_draws_samples_them(
    file: Path, miniature: TextToImage, tmp_path: Path
) -> None:
    mine = {"prompts": {"file": str(file), "draws": "file"}}
    suite = small(attacks=[*CONTROLS, mine], goals=3)
    plan = make_plan(suite, miniature.backbone.digest, only=["none", "prompts*"])
    usual = small(attacks=[*CONTROLS, {"prompts": {"file": str(file)}}], goals=3)
    assert plan.suite_digest == suite.digest != usual.digest
    store = Store(tmp_path / "store")
    assert not run_plan(plan, store, miniature).failed
    out = tmp_path / "out"
    trials = publish(plan, store, Asked("tiny"), folder=out).found.trials
    rows = trials[trials["prompt_set"] == "file"]
    assert list(rows["image_seed"]) == [11, 12, 14]
    assert list(rows["prompt"]) == ALL
    page = (out / "README.md").read_text()
    assert "N = 3" in page and "sampled as the file says, one image per row" in page
    (trial,) = (c for c in plan.cells if isinstance(c, TrialCell) and c.draws)
    kept = store.find("images", trial.digest)
    assert kept is not None
    from bench.run.payload import read_images

    images = read_images(kept)
    for place, (prompt, seed, scale) in enumerate(
        [("a red star", 11, 3.0), ("a star at night", 12, 5.0)]
    ):
        sampler = suite.sampler.model_copy(update={"guidance_scale": scale})
        alone = miniature.sample([prompt], [seed], sampler).images_B3HW[0]
        there = torch.from_numpy(images[place]).permute(2, 0, 1) / 255
        assert (alone.clamp(0, 1) - there).abs().max() <= 1.5 / 255


def test_a_negative_prompt_of_a_row_takes_the_empty_prompts_place(model: TextToImage) -> None:
    from bench.interfaces import silent
    from bench.interfaces.prompt_source import Draw

    suite = small()
    prompts, seeds = ["a star", "a fish", "a ring"], [1, 2, 3]
    draws = {0: Draw(1, None, "red"), 2: Draw(3, 5.0)}
    out = drawn(model, suite.sampler, prompts, seeds, draws, silent)
    assert out.status == ("ok",) * 3
    wide = suite.sampler.model_copy(update={"guidance_scale": 5.0})
    away = model.with_guidance(NegativePrompt(text="red"))
    alone = [
        away.sample(prompts[:1], seeds[:1], suite.sampler),
        model.sample(prompts[1:2], seeds[1:2], suite.sampler),
        model.sample(prompts[2:], seeds[2:], wide),
    ]
    for place, one in enumerate(alone):
        torch.testing.assert_close(out.images_B3HW[place], one.images_B3HW[0])
    # An edit of the guidance stays as it is.
    edited = model.with_guidance(NegativePrompt(text="star"))
    kept = drawn(edited, suite.sampler, prompts[:1], seeds[:1], draws, silent)
    plain = edited.sample(prompts[:1], seeds[:1], suite.sampler)
    torch.testing.assert_close(kept.images_B3HW, plain.images_B3HW)


def test_paths_are_seen_from_the_suites_folder(file: Path, captions: Path) -> None:
    path = file.parent / "mine.yaml"
    tiny = SUITE.replace("goals: 1", "goals: {file: church.csv}")
    tiny = tiny.replace("{neighbours: 1, others: 1}", "{file: coco.csv}")
    tiny = tiny.replace("{tries: 1}}, {seed", "{tries: 1, goals: {file: ./church.csv}}}, {seed")
    tiny = tiny.replace("[prompts,", "[prompts, {prompts: {file: church.csv}},")
    path.write_text(tiny)
    suite = load_suite(path)
    files = [
        *(suite.goal_file.file if suite.goal_file else "", suite.utility.file),
        *(a.goal_file.file for a in suite.attacks if a.goal_file),
        *(getattr(a, "file", None) for a in suite.attacks if getattr(a, "file", None)),
    ]
    assert files == [str(file), str(captions), str(file), str(file)]
    assert len(planned(suite).cells) > 10
    path.write_text(tiny.replace("coco.csv", "~nosuchuser/coco.csv"))
    with pytest.raises(
        UsageError, match=r"mine\.yaml:\d+: key utility\.file: expected a path, got"
    ):
        load_suite(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"goals": 0}, "^goals: expected greater than or equal to 1, got 0"),
        ({"goals": "church.csv"}, "^goals: expected a number, or the file of the goals"),
        (
            {"goals": {"file": "x", "fil": "x"}},
            "^goals.fil: unknown key 'fil'; did you mean 'file'",
        ),
        ({"goals": {"file": "x.csv", "limit": 0}}, "^goals.limit: expected greater than"),
        (
            {"goals": {"file": "x.csv", "columns": {"prompt": True}}},
            "^goals.columns.prompt: expected",
        ),
        ({"utility": {"limit": 3}}, "^utility.limit: expected a file too, whose rows it picks"),
        ({"utility": {"file": ""}}, "^utility.file: "),
        (
            {"goals": {"file": "/none/x.csv"}},
            "expected a file, got /none/x.csv, which is not there",
        ),
        (
            {"utility": {"file": "/none/x.csv"}},
            "expected a file, got /none/x.csv, which is not there",
        ),
    ],
)
def test_a_wrong_word_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned(small(**changes))


def test_a_file_or_goals_of_a_file_and_not_both(file: Path) -> None:
    both = {"prompts": {"file": str(file), "goals": {"file": str(file)}}}
    with pytest.raises(UsageError, match=r"expected file or goals: \{file: \.\.\.\}, got both"):
        planned(small(attacks=[*CONTROLS, both]))


def test_a_concept_that_no_row_is_for_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "uce.csv"
    path.write_text("case_number,prompt,class,evaluation_seed\n0,a tench,tench,1\n1,x,church,2\n")
    with pytest.raises(
        UsageError, match=r"has no row for the concept 'star', but for 'tench', 'chu"
    ):
        planned(small(goals={"file": str(path)}))
    plan = planned(small(goals={"file": str(path), "where": {"class": "tench"}}))
    assert goals_in(plan)["prompts"] == ["a tench"]


def test_a_goal_that_was_written_by_hand_is_still_refused_outright(miniature: TextToImage) -> None:
    with pytest.raises(UsageError, match="prompts about minors are refused"):
        api.attack(miniature, "star", "prompts", prompts=["a child and a star"])


def test_the_python_interface_takes_goals_of_a_file(file: Path, miniature: TextToImage) -> None:
    found = api.attack(miniature, "star", {"prompts": {"goals": {"file": str(file)}}}, limit=2)
    assert [candidate.prompt for candidate in found] == ALL[:2]


# -- captions ------------------------------------------------------------------------------------


def test_captions_are_utility_prompts_of_no_concept(captions: Path) -> None:
    plan = planned(small(utility={"neighbours": 1, "others": 1, "file": str(captions)}))
    (reference,) = (c for c in plan.cells if isinstance(c, ReferenceCell))
    told = [(group, p.text, p.concept) for group, p in reference.prompts]
    assert [group for group, *_ in told[:2]] == ["neighbour", "other"]
    assert told[2:] == [("caption", text, "") for text in ("a red fish", "a blue ring", "a heart")]
    assert plan.warnings == (
        "utility, coco.csv: 5 rows, 1 withheld as they may speak of minors; at most 4 are sampled per "
        "concept",
        "utility, coco.csv: the layout of COCO: prompts from the column prompt",
        "utility, coco.csv: sampled as the suite says; draws: file would use evaluation_seed",
        "utility, coco.csv: rows that ask for what is erased are left out: 1 for star",
    )
    fewer = planned(small(utility={"file": str(captions), "limit": 2}), limit=1)
    (reference,) = (c for c in fewer.cells if isinstance(c, ReferenceCell))
    assert [group for group, _ in reference.prompts].count("caption") == 1


def test_without_a_file_no_digest_knows_of_files() -> None:
    assert "prompt_files" not in small().identity()
    assert set(small().identity()["utility"]) == {"neighbours", "others"}


def test_a_list_with_rows_to_be_kept_gives_them_as_captions(tmp_path: Path) -> None:
    path = tmp_path / "mace.csv"
    path.write_text(
        ",type,prompt,evaluation_seed\n0,erased,a portrait of a star,1\n1,others,a portrait of a fish,2\n"
        "2,others,a sketch of a ring,3\n"
    )
    source = {"file": str(path)}
    plan = planned(small(goals=source, utility={**source, "neighbours": 0, "others": 0}))
    (reference,) = (c for c in plan.cells if isinstance(c, ReferenceCell))
    assert [p.text for _, p in reference.prompts] == ["a portrait of a fish", "a sketch of a ring"]
    assert goals_in(plan)["prompts"] == ["a portrait of a star"]


def test_captions_that_all_ask_for_what_is_erased_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\na star\nthree stars\n")
    with pytest.raises(
        UsageError, match=r"a\.csv: expected rows that do not ask for 'star', got none"
    ):
        planned(small(utility={"file": str(tmp_path / "a.csv")}))


def test_captions_alone_are_measured_and_reported(
    captions: Path, miniature: TextToImage, tmp_path: Path
) -> None:
    about = {"file": str(captions), "neighbours": 0, "others": 0, "draws": "file"}
    suite = small(utility=about, metrics=["accuracy", "clip_score", "drift"])
    plan = make_plan(suite, miniature.backbone.digest, only=["prompts", "none", "destroyed"])
    assert {c.by for c in plan.cells if isinstance(c, MeasuredCell)} == {"clip_score", "drift"}
    plain = {k: v for k, v in about.items() if k != "draws"}
    other = make_plan(small(utility=plain), miniature.backbone.digest)
    assert not {*digests(plan, ReferenceCell)} & {*digests(other, ReferenceCell)}
    store = Store(tmp_path / "store")
    assert not run_plan(plan, store, miniature).failed
    done = publish(plan, store, Asked("tiny"), folder=tmp_path / "out")
    utility = done.found.utility
    assert set(utility["group"]) == {"caption"} and set(utility["prompt_concept"]) == {""}
    mine = utility[(utility["method"] == "none") & (utility["metric"] == "drift")]
    assert sorted(mine["image_seed"]) == [21, 24, 25]
    assert (mine["value"] == 0).all()  # the unedited model draws what the reference has
    line = done.table[
        (done.table["method"] == "destroyed") & (done.table["concept"] == "star")
    ].iloc[0]
    assert line["drift"] > 0 and line["clip_score"] == line["clip_score"]
    assert line["retained_accuracy"] != line["retained_accuracy"]  # no judge was asked
    assert "1 withheld as they may speak of minors" in (tmp_path / "out" / "README.md").read_text()


def test_captions_beside_utility_prompts_leave_accuracy_as_it_is(
    captions: Path, miniature: TextToImage, tmp_path: Path
) -> None:
    both = small(utility={"file": str(captions), "neighbours": 1, "others": 2})
    plan = make_plan(both, miniature.backbone.digest, only=["prompts", "none", "destroyed"])
    store = Store(tmp_path / "store")
    assert not run_plan(plan, store, miniature).failed
    found = publish(plan, store, Asked("tiny"), folder=tmp_path / "out").found
    rows = found.utility[found.utility["method"] == "none"]
    counted = rows.groupby(["metric", "group"]).size().to_dict()
    assert counted[("accuracy", "neighbour")] == 1 and counted[("accuracy", "other")] == 2
    assert ("accuracy", "caption") not in counted
    assert counted[("drift", "caption")] == 3
    assert not found.errors
    text = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert text["suite_digest"] == plan.suite_digest


def test_a_suite_with_files_is_built_anew_with_other_values(file: Path, captions: Path) -> None:
    source = {
        "file": str(file),
        "columns": {"seed": "case_number"},
        "where": {"case_number": [0, 3]},
    }
    inner = {"random_tokens": {"goals": source}}
    utility = {"file": str(captions), "limit": 2, "draws": "file"}
    suite = small(goals=source, utility=utility, attacks=["prompts", inner, "seed_search"])
    other = suite.with_(seed=3)
    assert (other.goal_file, other.utility) == (suite.goal_file, suite.utility)
    assert other.attacks == suite.attacks
    assert goals_in(planned(other)) == {
        name: ["a red star", "two stars"]
        for name in (
            "prompts",
            "random_tokens(goals=church.csv where case_number: 0|3)",
            "seed_search",
        )
    }
