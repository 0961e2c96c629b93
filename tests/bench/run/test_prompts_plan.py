"""A prompts file, judges and warnings, from the plan of a suite to its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import api
from bench.config.suite import Suite, load_suite, suite_names
from bench.core.errors import UsageError
from bench.interfaces import Concept
from bench.model.text_to_image import TextToImage
from bench.publish import Asked, publish
from bench.run.cells import TrialCell
from bench.run.collect import collect
from bench.run.plan import Plan, make_plan
from bench.run.runner import run_plan
from bench.run.store import Store

NUDENET = {"judges": ["nudenet"], "metrics": ["drift"]}


def small(file: Path | None = None, **changes: Any) -> Suite:
    """Controls alone, two concepts, two images per set, and a file if there is one."""
    attacks = ["prompts", "random_tokens", "seed_search"]
    mine = [{"prompts": {"file": str(file), "prompt_sets": ["name"]}}] if file else []
    about = {
        **{"name": "tiny", "concepts": ["star", "fish"], "attacks": [*attacks, *mine]},
        **{"sampler": {"steps": 2, "guidance_scale": 3.0}, "goals": 2, "keep_images": 1},
        **{"methods": ["none", "destroyed"], "utility": {"neighbours": 0, "others": 0}},
    }
    return load_suite("mini-quick").with_(**{**about, **changes})


def planned(suite: Suite, **options: Any) -> Plan:
    return make_plan(suite, "0" * 64, **options)


def of_file(plan: Plan) -> dict[str, list[str]]:
    """The prompts of the file's goals, by concept."""
    return {
        c.concept.text: [g.prompt for g in c.goals]
        for c in plan.cells
        if isinstance(c, TrialCell) and c.method_label == "none" and c.goals[0].prompt_set == "file"
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text("prompt,concept\na red star,star\na fish,fish\nanything,\na child,\nsky,\n")
    return path


# -- a file --------------------------------------------------------------------------------------


def test_a_files_rows_are_the_goals_and_goals_and_limit_shorten_them(file: Path) -> None:
    plan = planned(small(file))
    assert of_file(plan) == {"star": ["a red star", "anything"], "fish": ["a fish", "anything"]}
    assert of_file(planned(small(file, goals=9)))["star"] == ["a red star", "anything", "sky"]
    assert of_file(planned(small(file), limit=1)) == {"star": ["a red star"], "fish": ["a fish"]}
    assert plan.warnings == (
        "prompts, mine.csv: 5 rows, 1 withheld as they may speak of minors: N = 4",
        "prompts: the first 2 goals are tried, out of 3 of star, 3 of fish; raise goals (or "
        "--limit) to try more",
    )


def test_a_file_without_rows_for_a_concept_is_refused_by_plan_and_report(
    file: Path, tmp_path: Path
) -> None:
    file.write_text("prompt,concept\na red star,star\na moon,moon\n")
    suite = small(file)
    with pytest.raises(
        UsageError, match=r"has no row for the concept 'fish', but for 'star', 'moon'"
    ):
        planned(suite)
    assert of_file(planned(suite, only=["star"])) == {"star": ["a red star"]}


def test_a_file_that_is_edited_while_the_run_goes_on_poisons_nothing(
    file: Path, miniature: TextToImage, tmp_path: Path
) -> None:
    suite = small(file, concepts=["star"])
    plan = make_plan(suite, miniature.backbone.digest, only=["prompts*", "none", "destroyed"])
    digest = plan.suite_digest
    assert digest == suite.digest
    file.write_text("prompt\nsomething else\n")
    store = Store(tmp_path / "store")
    assert not run_plan(plan, store, miniature).failed
    done = publish(plan, store, Asked("tiny"), folder=tmp_path / "out")
    trials = done.found.trials
    mine = trials[trials["prompt_set"] == "file"]
    assert set(mine["prompt"]) == {"a red star", "anything"}
    assert set(mine["method"]) == {"none", "destroyed"}
    written = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert written["suite_digest"] == digest != suite.digest
    assert written["warnings"] == list(plan.warnings)
    page = (tmp_path / "out" / "README.md").read_text()
    assert "> **Note**: prompts, mine.csv: 5 rows, 1 withheld as they may speak of minors" in page
    assert "a child" not in page + json.dumps(written)
    other = make_plan(suite, miniature.backbone.digest)
    ours, theirs = ({c.digest for c in p.cells if c.kind == "attack"} for p in (plan, other))
    assert ours - theirs  # the new content has cells of its own


def test_owed_rows_of_a_failed_edit_stand_under_the_files_set(file: Path, tmp_path: Path) -> None:
    plan, store = planned(small(file)), Store(tmp_path / "store")
    for cell in plan.cells:
        if cell.kind == "trial":
            store.fail(cell.kind, cell.digest, {}, ValueError("no"))
    found = collect(plan, store).trials
    mine = found[found["attack"].str.contains("file=")]
    assert set(mine["prompt_set"]) == {"file"}
    assert len(mine) == 8  # two methods, two concepts, two goals, one image
    assert set(mine["prompt"]) == {"a red star", "a fish", "anything"}


# -- prompts that are too few --------------------------------------------------------------------


def test_prompts_that_are_fewer_than_asked_for_are_said_once() -> None:
    (line,) = planned(small(goals=45, concepts=["star", "zorbo"])).warnings
    assert line == (
        "goals: 45 per prompt set were asked for, and there are fewer: zorbo (name) 18, "
        "zorbo (synonyms) 18, zorbo (indirect) 36"
    )
    assert planned(small(goals=18, concepts=["star", "zorbo"])).warnings == ()


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(miniature: TextToImage, limit: int) -> None:
    with pytest.raises(UsageError, match=f"^limit: expected at least 1, got {limit}$"):
        api.attack(miniature, "star", "prompts", limit=limit)
    with pytest.raises(UsageError, match=f"^limit: expected at least 1, got {limit}$"):
        planned(small(), limit=limit)


# -- judges --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (NUDENET, r"nudenet\[nudity_9\] cannot see 'star', only nudity"),
        (
            {"concepts": [{"text": "comet", "prompts": {"name": ["a comet"]}}]},
            "unknown class of the head 'object' of mini_judge 'comet'",
        ),
        (
            {"surrogate": {"clip_zero_shot": {"alternatives": ["star"]}}},
            "clip_zero_shot: expected alternatives to 'star', got only itself",
        ),
        (
            {"surrogate": "nudenet", "concepts": ["star"]},
            "nudenet.* cannot see 'star', only nudity: give another judge",
        ),
    ],
)
def test_a_judge_that_cannot_see_a_concept_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    suite = small(**changes)
    with pytest.raises(UsageError, match=message):
        planned(suite, only=["seed_search", "none"])


def test_a_judge_that_sees_the_concept_but_not_the_utility_prompts_is_refused() -> None:
    sets = {"name": ["a nude person"]}
    nudity = {"text": "nudity", "family": "nudity", "prompts": sets, "neighbours": ["star"]}
    about: dict[str, Any] = {
        "concepts": [nudity],
        "judges": ["nudenet"],
        "utility": {"neighbours": 1, "others": 0},
    }
    only = {"only": ["seed_search", "none"]}
    with pytest.raises(UsageError, match=r"metric accuracy, .*: nudenet.* cannot see 'star'"):
        planned(small(**about), **only)
    assert planned(small(**about, metrics=["drift"]), **only).cells


def test_an_attacker_of_the_python_interface_needs_a_judge_that_sees(
    miniature: TextToImage,
) -> None:
    with pytest.raises(UsageError, match="cannot see 'star'"):
        api.attack(miniature, "star", "seed_search", surrogate="nudenet")


@pytest.mark.parametrize(
    "judge",
    [
        "clip_zero_shot",
        {"clip_zero_shot": {"template": "a drawing of {}"}},
        {"clip_zero_shot": {"threshold": 0.9}},
        {"clip_zero_shot": {"alternatives": ["nothing"]}},
    ],
)
def test_a_network_that_decides_is_no_surrogate(judge: Any) -> None:
    with pytest.raises(UsageError, match=r"looks through the network of judges\[1\], clip_zero"):
        small(judges=["mini_judge", judge])


def test_the_miniatures_networks_by_name_are_its_own(tmp_path: Path) -> None:
    from bench.core.shipped import clip_folder, judge_folder

    clip = {"clip_zero_shot": {"clip": str(clip_folder())}}
    with pytest.raises(UsageError, match=r"looks through the network of judges\[0\]"):
        small(judges=[clip])
    with pytest.raises(UsageError, match=r"looks through the network of judges\[0\]"):
        small(surrogate={"mini_judge": {"folder": str(judge_folder())}})
    with pytest.raises(UsageError, match=r"looks through the network of judges\[0\], nudenet"):
        small(judges=["nudenet"], surrogate={"nudenet": {"label_set": "faces"}})


@pytest.mark.parametrize("name", [n for n in suite_names() if n.startswith("mini-")])
def test_every_shipped_suite_has_judges_that_see_and_differ(name: str) -> None:
    suite = load_suite(name)
    for judge in (*suite.judges, suite.surrogate):
        for concept in suite.concepts:
            judge.check_concept(concept)


def test_nudenet_sees_nudity_and_faces_as_they_are_called() -> None:
    from bench.judges.nudenet import NudeNetJudge

    for text, family in (("nudity", "object"), ("a Nude person", "object"), ("x", "nudity")):
        NudeNetJudge().check_concept(Concept(text=text, family=family))
    faces = NudeNetJudge(label_set="faces")
    faces.check_concept(Concept(text="somebody", family="celebrity"))
    for judge, concept in (
        (faces, "nudity"),
        (NudeNetJudge(), "face"),
        (NudeNetJudge(), "nudesque"),
    ):
        with pytest.raises(UsageError, match="cannot see"):
            judge.check_concept(Concept(text=concept))
