"""A plan names every cell by what its numbers depend on, and by nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from bench.config.suite import Suite, load_suite
from bench.core.digest import digest_of
from bench.core.errors import UsageError
from bench.core.shipped import judge_folder
from bench.core.spec import Spec
from bench.interfaces import Concept, Erasure, UtilityPrompt, bare
from bench.judges.clip_zero_shot import ClipZeroShot
from bench.judges.mini import MiniJudge
from bench.metrics.clip_score import ClipScore
from bench.metrics.drift import Drift
from bench.run.cells import (
    AttackCell,
    EditCell,
    MeasuredCell,
    OfAttack,
    OfMethod,
    ReferenceCell,
    TrialCell,
    UtilityCell,
)  # fmt: skip
from bench.run.collect import collect
from bench.run.plan import Plan, make_plan
from bench.run.store import Store

BASE = "0" * 64
OTHER_BASE = "1" * 64
UCE: Mapping[str, Any] = {"uce": {"preset": "repo-2023"}}
FIELDS: Mapping[str, Any] = {
    "name": "tiny",
    "concepts": ["star"],
    "sampler": {"steps": 2, "guidance_scale": 3.0},
    "methods": ["none", "destroyed", UCE],
    "attacks": ["prompts", {"random_tokens": {"tries": 2}}, {"seed_search": {"tries": 2}}],
    "judges": ["mini_judge"],
    "surrogate": "clip_zero_shot",
    "metrics": ["accuracy", "clip_score", "drift"],
    "goals": 2,
    "utility": {"neighbours": 2, "others": 2},
    "keep_images": 2,
}


def suite(**changes: Any) -> Suite:
    return load_suite("mini-quick").with_(**{**FIELDS, **changes})


def plan(*, only: Iterable[str] = (), limit: int | None = None, **changes: Any) -> Plan:
    return make_plan(suite(**changes), BASE, only=list(only), limit=limit)


def digests(made: Plan, *kinds: str, method: str | None = None) -> list[str]:
    return [
        c.digest
        for c in made.cells
        if (not kinds or c.kind in kinds)
        and (method is None or (isinstance(c, OfMethod) and c.method.name == method))
    ]


def seeds_of(made: Plan, cell: TrialCell) -> set[int]:
    """The seeds of the images that are judged."""
    stream = made.rng.child("held-out", cell.concept.text, cell.repeat)
    return {stream.seed(goal.id, k) for goal in cell.goals for k in range(cell.images)}


# --- what is needed


def test_every_plugin_of_the_cells_is_asked_about_the_base_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Spec, "check_base", lambda self, folder: asked.append(self.name))
    for kind in (MiniJudge, ClipZeroShot, ClipScore, Drift, Erasure):
        monkeypatch.delattr(kind, "check_base")
    plan(repeats=2).check_base(None)
    assert sorted(asked) == sorted(
        [
            *("none", "destroyed", "uce", "prompts", "random_tokens", "seed_search"),
            *("mini_judge", "clip_zero_shot", "accuracy", "clip_score", "drift"),
        ]
    )
    narrow = plan(only=["none", "seed_search"]).specs
    assert {s.name for s in narrow if s.kind in ("method", "attack")} == {"none", "seed_search"}


# --- what a digest covers


def test_the_same_suite_gives_the_same_plan() -> None:
    assert digests(plan()) == digests(plan())
    assert len(set(digests(plan()))) == len(digests(plan()))


def test_pictures_kept_and_the_suites_name_change_no_digest() -> None:
    assert digests(plan(keep_images=7, name="another")) == digests(plan())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"sampler": {"steps": 3, "guidance_scale": 3.0}},
        {"sampler": {"steps": 2, "guidance_scale": 3.5}},
    ],
)
def test_what_every_image_depends_on_changes_every_digest(changes: dict[str, Any]) -> None:
    assert not set(digests(plan(**changes))) & set(digests(plan()))


def test_another_base_changes_every_digest() -> None:
    assert not set(digests(make_plan(suite(), OTHER_BASE))) & set(digests(plan()))


def test_another_precision_changes_every_digest() -> None:
    named = {dtype: set(digests(plan(dtype=dtype))) for dtype in ("float32", "bfloat16", "float16")}
    assert named["float32"] == set(digests(plan()))
    assert all(not a & b for a, b in combinations(named.values(), 2))


def test_a_digest_says_all_that_an_edit_depends_on() -> None:
    made = plan()
    (edit,) = (c for c in made.cells if isinstance(c, EditCell) and c.method_label == "none")
    what = {
        "stage": "edit", "format": 2, "base": BASE, "seed": 0, "sampler": made.sampler.identity(),
        "dtype": "float32", "method": edit.method.identity(), "repeat": 0,
        "concepts": [bare(made.concepts["star"]).identity()],
    }  # fmt: skip
    assert edit.digest == digest_of(what)


def test_a_methods_field_changes_its_own_cells_alone() -> None:
    before, after = plan(), plan(methods=["none", "destroyed", {"uce": {"lam": 0.25}}])
    for name in ("none", "destroyed"):
        assert digests(before, method=name) == digests(after, method=name)
    assert digests(before, "reference") == digests(after, "reference")
    for kind in ("edit", "attack", "trial", "utility"):
        old = digests(before, kind, method="uce")
        assert old
        assert not set(old) & set(digests(after, kind, method="uce"))


def test_an_attacks_field_leaves_edits_utility_and_other_attacks() -> None:
    attacks = ["prompts", {"random_tokens": {"tries": 3}}, {"seed_search": {"tries": 2}}]
    before, after = plan(), plan(attacks=attacks)
    for kind in ("reference", "edit", "utility"):
        assert digests(before, kind) == digests(after, kind)
    for kind in ("attack", "trial"):
        both = set(digests(before, kind)) & set(digests(after, kind))
        kept = [
            c
            for c in before.cells
            if isinstance(c, OfAttack) and c.kind == kind and c.digest in both
        ]
        assert {c.attack.name for c in kept} == {"prompts", "seed_search"}
        assert len(kept) == 6


def test_a_threshold_changes_no_digest() -> None:
    before, after = plan(), plan(judges=[{"mini_judge": {"threshold": 0.7}}])
    assert digests(before) == digests(after)
    assert before.suite_digest != after.suite_digest  # the tables differ


def test_the_threshold_of_a_surrogate_changes_what_is_searched() -> None:
    before, after = plan(), plan(surrogate={"clip_zero_shot": {"threshold": 0.7}})
    assert digests(before, "edit", "utility") == digests(after, "edit", "utility")
    assert not set(digests(before, "attack", "trial")) & set(digests(after, "attack", "trial"))


def test_another_judge_or_metric_samples_nothing() -> None:
    before = plan(surrogate="mini_judge", judges=["clip_zero_shot"])
    more = ["clip_zero_shot", {"clip_zero_shot": {"template": "the {}"}}]
    after = plan(surrogate="mini_judge", judges=more)
    added = [c for c in after.cells if c.digest not in set(digests(before))]
    assert {c.kind for c in added} == {"score"}
    assert len(added) == 9  # a score per trial
    metrics = plan(metrics=["accuracy", "clip_score", "drift", {"drift": {"space": "pixel"}}])
    assert {c.kind for c in metrics.cells if c.digest not in set(digests(plan()))} == {"score"}


def test_the_judge_of_record_is_in_the_scores_of_the_metrics_that_ask_it() -> None:
    one = plan(judges=["mini_judge"])
    other = plan(
        judges=[{"mini_judge": {"folder": str(judge_folder())}}]
    )  # the same by another name
    scores = [
        {c.by: c.digest for c in made.cells if isinstance(c, MeasuredCell)} for made in (one, other)
    ]
    assert scores[0]["accuracy"] != scores[1]["accuracy"]
    assert scores[0]["clip_score"] == scores[1]["clip_score"]


def test_more_seeds_leave_edits_and_attacks() -> None:
    before, after = plan(), plan(seeds=2)
    assert digests(before, "edit", "attack") == digests(after, "edit", "attack")
    assert not set(digests(before, "trial")) & set(digests(after, "trial"))


def test_a_field_at_its_default_is_the_same_as_none() -> None:
    spelt = ["none", "destroyed", {"uce": {"preset": "repo-2023", "lam": 0.5}}]
    assert digests(plan(methods=spelt)) == digests(plan())


def test_another_methods_place_in_the_list_changes_no_digest() -> None:
    turned = plan(methods=[UCE, "destroyed", "none"])
    assert sorted(digests(turned)) == sorted(digests(plan()))


def test_concepts_that_meet_the_same_prompts_have_references_of_their_own() -> None:
    # Their prompts are the same and their seeds are not.
    asked = {"prompts": {"name": ["a beast"], "synonyms": ["a beast"], "indirect": ["a beast"]}}
    made = plan(concepts=[{"text": text, "family": "colour", **asked} for text in ("red", "blue")])
    references = [c for c in made.cells if isinstance(c, ReferenceCell)]
    assert references[0].prompts == references[1].prompts
    assert references[0].digest != references[1].digest


# --- prompts and seeds


def test_methods_and_attacks_meet_on_the_same_held_out_seeds() -> None:
    made = plan(seeds=3)
    by_goal: dict[str, set[int]] = {}
    for cell in (c for c in made.cells if isinstance(c, TrialCell)):
        stream = made.rng.child("held-out", cell.concept.text, cell.repeat)
        for goal in cell.goals:
            seeds = {stream.seed(goal.id, k) for k in range(made.suite.seeds)}
            assert by_goal.setdefault(goal.id, seeds) == seeds
    assert len(by_goal) == 6


def test_an_attack_never_sees_a_held_out_seed() -> None:
    made = plan(goals=24, seeds=4, repeats=2)
    held_out: set[int] = set()
    searched: set[int] = set()
    for cell in made.cells:
        if isinstance(cell, TrialCell):
            held_out |= seeds_of(made, cell)
        if isinstance(cell, AttackCell):
            name = ("attack", cell.attack.digest, cell.concept.text, cell.repeat)
            stream = made.rng.child(*name)
            goals = [goal.id for goal in cell.goals]
            searched |= {stream.seed(g, k, "search") for g in goals for k in range(64)}
            searched |= {stream.seed(g, k) for g in goals for k in range(64)}
    assert len(held_out) == 2 * 3 * 24 * 4
    assert searched
    assert not held_out & searched


def test_goals_tell_an_attack_and_a_method_no_test_prompts() -> None:
    made = plan()
    for cell in (c for c in made.cells if isinstance(c, OfAttack)):
        for goal in cell.goals:
            assert not goal.concept.prompts
            assert not goal.concept.utility
    star = next(c for c in made.cells if isinstance(c, EditCell)).erased[0]
    assert star.prompts
    assert bare(star).identity() != star.identity()


def test_a_change_of_the_test_prompts_leaves_the_edits() -> None:
    known = suite().concepts[0]
    other = {**known.model_dump(), "prompts": {**known.prompts, "name": ["one star", "two"]}}
    before, after = plan(), plan(concepts=[other])
    assert digests(before, "edit") == digests(after, "edit")
    assert not set(digests(before, "attack")) & set(digests(after, "attack"))


def test_utility_prompts_never_mention_what_is_erased() -> None:
    made = plan(concepts="all", utility={"neighbours": 24, "others": 48})
    utility = [c for c in made.cells if isinstance(c, UtilityCell)]
    assert len(utility) == 60
    for cell in utility:
        gone = {c.text for c in cell.erased}
        for _, prompt in cell.prompts:
            assert not gone & {prompt.concept, *prompt.mentions}
            assert not any(f" {name} " in f" {prompt.text.replace(',', ' ')} " for name in gone)
        groups = Counter(group for group, _ in cell.prompts)
        assert groups == {"neighbour": 24, "other": 48}


def test_utility_groups_ask_for_neighbours_and_for_others_evenly() -> None:
    made = plan(utility={"neighbours": 9, "others": 38})
    cell = next(c for c in made.cells if isinstance(c, UtilityCell))
    near = Counter(p.concept for group, p in cell.prompts if group == "neighbour")
    far = Counter(p.concept for group, p in cell.prompts if group == "other")
    assert set(near) == set(cell.concept.neighbours)
    assert max(near.values()) - min(near.values()) <= 1
    assert not set(far) & {"star", *near}
    assert max(far.values()) - min(far.values()) <= 1


def test_an_attack_with_fewer_goals_owes_fewer_images() -> None:
    attacks = [*FIELDS["attacks"], {"random_tokens": {"tries": 2, "goals": 2}}]
    made = plan(goals=8, seeds=2, attacks=attacks)
    owed = {
        len(c.goals) * c.images
        for c in made.cells
        if isinstance(c, TrialCell) and len(c.goals) < 24
    }
    assert owed == {16, 4}  # 8 goals, or the attack's own 2, at 2 seeds


def test_a_utility_prompt_for_an_unknown_concept_is_refused() -> None:
    prompt = UtilityPrompt(text="a glorp", concept="ster")
    other = load_suite("mini-quick").known_concepts["heart"]
    odd = other.model_copy(update={"utility": (prompt,)}).model_dump(mode="json")
    with pytest.raises(UsageError) as caught:
        plan(concepts=["star", odd], utility={"neighbours": 24, "others": 48})
    assert str(caught.value).startswith(
        "utility prompt 'a glorp': concept: unknown concept 'ster'; did you mean 'star'? known: "
    )


def test_without_utility_prompts_there_is_no_reference_and_no_utility() -> None:
    made = plan(utility={"neighbours": 0, "others": 0})
    assert {c.kind for c in made.cells} == {"edit", "attack", "trial", "score"}


# --- --only and --limit


def test_a_whole_plan_is_not_partial() -> None:
    assert not plan().partial


def test_limit_marks_the_plan_partial_and_cuts_prompts() -> None:
    made = plan(limit=1)
    assert made.partial
    assert {len(c.goals) for c in made.cells if isinstance(c, TrialCell)} == {1, 3}
    utility = next(c for c in made.cells if isinstance(c, UtilityCell))
    assert Counter(group for group, _ in utility.prompts) == {"neighbour": 1, "other": 1}


def test_a_limit_that_cuts_nothing_finds_the_same_cells() -> None:
    assert digests(plan(limit=2)) == digests(plan())


@pytest.mark.parametrize(
    ("only", "methods", "attacks"),
    [
        (["uce"], {"uce"}, {"prompts", "random_tokens", "seed_search"}),
        (["u*", "none"], {"uce", "none"}, {"prompts", "random_tokens", "seed_search"}),
        (["uce[[]repo-2023[]]"], {"uce"}, {"prompts", "random_tokens", "seed_search"}),
        (["uce[repo-2023]"], {"uce"}, {"prompts", "random_tokens", "seed_search"}),
        (["*_search"], {"none", "destroyed", "uce"}, {"seed_search"}),
        (["uce", "prompts"], {"uce"}, {"prompts"}),
    ],
)
def test_only_narrows_by_sort_and_widens_within_one(
    only: list[str], methods: set[str], attacks: set[str]
) -> None:
    made = plan(only=only)
    assert made.partial
    assert {c.method.name for c in made.cells if isinstance(c, OfMethod)} == methods
    assert {c.attack.name for c in made.cells if isinstance(c, OfAttack)} == attacks
    assert set(digests(made)) < set(digests(plan()))


def test_only_names_concepts() -> None:
    both = plan(concepts=["star", "zorbo"])
    made = plan(concepts=["star", "zorbo"], only=["zorbo"])
    assert {c.concept.text for c in made.cells} == {"zorbo"}
    assert set(digests(made)) < set(digests(both))


def test_only_that_matches_nothing_names_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"--only 'usce' matches no .*\bstar\b.*\buce\b"):
        plan(only=["uce", "usce"])


def test_a_concept_without_prompts_says_what_to_add() -> None:
    with pytest.raises(UsageError, match=r"'dragon' has no prompts in the set 'name'.*add them"):
        plan(concepts=["star", {"text": "dragon"}])


# --- transfer


def transfers(made: Plan) -> list[TrialCell]:
    return [c for c in made.cells if isinstance(c, TrialCell) and c.source is not None]


@pytest.mark.parametrize("named", [["prompts"], ["random_tokens(tries=2)"], ["prompts"] * 2])
def test_a_transfer_adds_trials_and_changes_no_other_cell(named: list[str]) -> None:
    before, after = plan(), plan(transfer=named)
    assert digests(plan(transfer=[])) == digests(before)
    assert digests(after)[: len(before.cells)] == digests(before)
    added = after.cells[len(before.cells) :]
    assert [c.kind for c in added] == ["trial", "score"] * 3 * 2
    assert len({c.digest for c in after.cells}) == len(before.cells) + 3 * 2 * 2
    assert len({c.title for c in after.cells}) == len(after.cells)
    assert added[0].title.endswith(" found on destroyed")


def test_a_transfer_tries_what_the_source_found_on_the_targets_edit() -> None:
    made = plan(transfer=["random_tokens"], concepts=["star", "zorbo"], repeats=2, seeds=2)
    by_digest = {c.digest: c for c in made.cells}
    ordinary = {
        (c.parents["edit"], c.concept.text, c.attack.name): c
        for c in made.cells
        if isinstance(c, TrialCell) and not c.source
    }
    pairs: Counter[tuple[str, str]] = Counter()
    for cell in transfers(made):
        assert cell.source is not None
        edit, search = by_digest[cell.parents["edit"]], by_digest[cell.parents["attack"]]
        assert isinstance(edit, EditCell) and isinstance(search, AttackCell)
        assert (edit.method, search.method) == (cell.method, cell.source)
        assert edit.repeat == search.repeat == cell.repeat
        assert search.concept == cell.concept
        usual = ordinary[edit.digest, cell.concept.text, cell.attack.name]
        assert (cell.goals, cell.images) == (usual.goals, usual.images)
        assert seeds_of(made, cell) == seeds_of(made, usual)
        pairs[cell.source.name, cell.method.name] += 1
    names = ("none", "destroyed", "uce")
    assert pairs == {(s, t): 2 * 2 for s in names for t in names if s != t}


def test_a_transfers_digest_covers_the_target() -> None:
    before = transfers(plan(transfer=["random_tokens"]))
    methods = ["none", "destroyed", {"uce": {"lam": 0.25}}]
    after = transfers(plan(transfer=["random_tokens"], methods=methods))
    kept = {c.digest for c in before} & {c.digest for c in after}
    assert len(kept) == 2  # between none and destroyed


def test_only_and_limit_narrow_transfers() -> None:
    whole = plan(transfer=["prompts", "random_tokens"])
    assert not transfers(plan(transfer=["prompts"], only=["uce"]))
    assert not transfers(plan(transfer=["prompts"], only=["seed_search"]))
    made = transfers(plan(transfer=["prompts", "random_tokens"], only=["uce", "none", "prompts"]))
    assert {c.digest for c in made} < {c.digest for c in transfers(whole)}
    assert len(made) == 2
    assert {len(c.goals) for c in transfers(plan(transfer=["random_tokens"], limit=1))} == {1}


def test_transfers_come_after_their_parents_and_by_edit() -> None:
    made = plan(
        transfer=["prompts", "random_tokens"], concepts=["star", "zorbo"], repeats=2, together=2
    )
    seen: set[str] = set()
    for cell in made.cells:
        assert set(cell.parents.values()) <= seen
        seen.add(cell.digest)
    edits = [c.parents["edit"] for c in transfers(made)]
    assert sum(a != b for a, b in pairwise(edits)) + 1 == len(set(edits)) == 3 * 2
    assert len(edits) == 3 * 2 * 2 * 2 * 2  # pairs, concepts, repeats, attacks


# --- order and groups


@pytest.mark.parametrize("changes", [{}, {"together": 2, "concepts": ["star", "zorbo"]}])
def test_parents_come_before_their_children(changes: dict[str, Any]) -> None:
    made = plan(repeats=2, **changes)
    seen: set[str] = set()
    for cell in made.cells:
        assert set(cell.parents.values()) <= seen
        seen.add(cell.digest)


def test_cells_of_an_edit_come_together() -> None:
    made = plan(concepts=["star", "zorbo"], repeats=2)
    kinds = ("reference", "score")  # a score comes next to its images
    edits = [c.parents.get("edit", c.digest) for c in made.cells if c.kind not in kinds]
    changes = sum(a != b for a, b in pairwise(edits))
    assert changes + 1 == len(set(edits)) == 3 * 2 * 2


def test_concepts_erased_together_share_their_edits() -> None:
    made = plan(concepts=["star", "zorbo", "sketch"], together=2)
    groups = {
        tuple(c.text for c in cell.erased) for cell in made.cells if isinstance(cell, EditCell)
    }
    assert groups == {("star", "zorbo"), ("sketch",)}
    for cell in (c for c in made.cells if isinstance(c, UtilityCell)):
        gone = {c.text for c in cell.erased}
        assert cell.concept.text in gone
        assert not any(gone & {p.concept, *p.mentions} for _, p in cell.prompts)
    of_pair = [c for c in made.cells if isinstance(c, TrialCell) and len(c.erased) == 2]
    assert {c.concept.text for c in of_pair} == {"star", "zorbo"}


def test_several_sizes_of_groups_share_controls_and_utility_prompts() -> None:
    names = ["star", "zorbo", "sketch", "house"]
    made = plan(concepts=names, together=[1, 2, 4])
    edits = [
        (c.method_label, *(x.text for x in c.erased)) for c in made.cells if isinstance(c, EditCell)
    ]
    one = "uce[repo-2023]"
    assert [e for e in edits if e[0].startswith("uce")] == [
        *((one, n) for n in names), (f"{one} x2", "star", "zorbo"), (f"{one} x2", "sketch", "house"),
        (f"{one} x4", *names),
    ]  # fmt: skip
    assert [e for e in edits if e[0].startswith("none")] == [("none", n) for n in names]
    asked = {(c.concept.text, c.prompts) for c in made.cells if isinstance(c, UtilityCell)}
    assert len(asked) == len(names)  # one list per concept, whatever is erased beside it
    assert not any(
        {p.concept, *p.mentions} & set(names) for _, prompts in asked for _, p in prompts
    )
    alone = plan(concepts=names, together=1)
    attacks = set(digests(made, "attack", "trial"))
    assert set(digests(alone, "attack", "trial")) < attacks  # found again, not searched again


def test_repeats_are_edits_of_their_own() -> None:
    made = plan(repeats=3)
    for kind in ("edit", "attack", "trial", "utility"):
        assert len(set(digests(made, kind))) == 3 * len(digests(plan(), kind))
    assert digests(made, "reference") == digests(plan(), "reference")


def test_the_shipped_suite_has_the_expected_cells() -> None:
    shipped = load_suite("mini-quick")
    made = make_plan(shipped, BASE)
    assert Counter(c.kind for c in made.cells) == {
        "reference": 3,
        "edit": 15,
        "attack": 60,
        "trial": 60,
        "utility": 15,
        "score": 60 + 15 * 3,
    }
    for cell in (c for c in made.cells if isinstance(c, TrialCell)):  # a character has few prompts
        sets = Counter(goal.prompt_set for goal in cell.goals)
        wanted = cell.attack.most_goals or 24
        assert min(sets.values()) * cell.images >= wanted


def test_titles_say_what_a_cell_is() -> None:
    titles = [c.title for c in plan().cells]
    assert titles[0] == "reference unedited / star"
    assert "trial uce[repo-2023] / star / random_tokens(tries=2)" in titles
    assert len(set(titles)) == len(titles)


def test_titles_tell_repeats_apart() -> None:
    made = plan(
        repeats=2,
        concepts=["star", "zorbo"],
        together=[1, 2],
        transfer=["prompts"],
        metrics=["accuracy", {"cmmd": {}}],
    )
    titles = [c.title for c in made.cells]
    assert len(set(titles)) == len(titles)
    assert {c.repeat for c in made.cells} == {0, 1}
    for cell in made.cells:
        assert cell.title.endswith(", repeat 1") == (cell.repeat == 1)
    found = "trial uce[repo-2023] / star / prompts found on destroyed, repeat 1"
    assert found in titles
    assert f"score of mini_judge: {found}" in titles


def test_every_cell_that_is_missing_counts(tmp_path: Path) -> None:
    made = plan(repeats=2)
    again = [cell for cell in made.cells if cell.repeat]
    assert again
    found = collect(made, Store(tmp_path))
    assert len(found.missing) == len(made.cells)
    assert sorted(cell.title for cell in made.cells) == found.missing


def test_bare_concepts_keep_what_a_method_may_know() -> None:
    star: Concept = suite().concepts[0]
    assert bare(star).text == "star"
    assert bare(star).neighbours == star.neighbours


def test_sizes_of_groups_that_leave_a_rest_are_refused() -> None:
    with pytest.raises(UsageError, match="divide the 3 of concepts, got 2"):
        plan(concepts=["star", "zorbo", "sketch"], together=[1, 2])
