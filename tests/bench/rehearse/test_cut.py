"""A suite that is cut keeps each plug-in once, at its smallest."""

from __future__ import annotations

from typing import Any

from bench.config.suite import Suite, load_suite
from bench.rehearse.cut import cut


def cut_of(
    name: str, *only: str, **changes: Any
) -> tuple[Suite, Suite, dict[str, tuple[str, ...]]]:
    whole = load_suite(name)
    whole = whole.with_(**changes) if changes else whole
    found = cut(whole, only=only, tiny=False)
    return whole, Suite.of(found.file), dict(found.stands_for)


def test_every_plug_in_is_left_and_small() -> None:
    whole, left, stands_for = cut_of("mini-full")
    assert {m.name for m in left.methods} == {m.name for m in whole.methods}
    assert {a.name for a in left.attacks} == {a.name for a in whole.attacks}
    every = {spec.label for spec in (*whole.methods, *whole.attacks)}
    assert {old for olds in stands_for.values() for old in olds} == every
    assert set(stands_for) == {spec.label for spec in (*left.methods, *left.attacks)}
    assert (left.goals, left.seeds, left.repeats, left.sampler.steps) == (1, 1, 1, 2)
    for spec in (*left.methods, *left.attacks):
        for field, least in type(spec).quick.items():
            now = getattr(spec, field)
            assert now == least or (isinstance(now, int | float) and now < least), (
                spec.label,
                field,
            )
    assert left.name == "rehearsal-mini-full"


def test_what_becomes_the_same_is_tried_once() -> None:
    # mini-full has random_tokens at two budgets.
    _, left, stands_for = cut_of("mini-full")
    assert [a.name for a in left.attacks].count("random_tokens") == 1
    (both,) = (olds for olds in stands_for.values() if "random_tokens(goals=12, tries=4)" in olds)
    assert len(both) == 2


def test_what_tells_methods_apart_stays() -> None:
    _, left, _ = cut_of("mini-full")
    assert [m.label for m in left.methods if m.name == "uce"] == [
        "uce[repo-2023]",
        "uce[repo-2025]",
    ]
    guidance = {m.label for m in left.methods if m.name == "negative_prompt"}
    assert guidance == {"negative_prompt", "negative_prompt[mini]"}


def test_as_many_concepts_are_left_as_are_erased_together() -> None:
    whole, left, _ = cut_of("mini-many")
    assert whole.group_sizes == left.group_sizes == (1, 3, 6)
    assert len(left.concepts) == 6
    assert len(cut_of("mini-full")[1].concepts) == 1


def test_a_concept_that_is_asked_for_is_the_one_that_is_left() -> None:
    _, left, _ = cut_of("mini-full", "zorbo", "uce*")
    assert [c.text for c in left.concepts] == ["zorbo"]


def test_patterns_name_what_is_left() -> None:
    found = cut(load_suite("mini-full"), only=["esd[[]mini]", "random*"], tiny=False)
    labels = {spec.label for spec in (*Suite.of(found.file).methods, *Suite.of(found.file).attacks)}
    import fnmatch

    kept = {label for label in labels if any(fnmatch.fnmatch(label, p) for p in found.only)}
    assert {label.partition("[")[0].partition("(")[0] for label in kept} >= {"esd", "random_tokens"}
    assert not any(label.startswith("uce") for label in kept)


def test_all_concepts_are_one_of_them() -> None:
    assert len(cut_of("mini-quick", concepts="all")[1].concepts) == 1


def test_transfers_follow_their_attacks() -> None:
    whole, left, _ = cut_of("mini-transfer")
    assert [a.name for a in left.transfer] == [a.name for a in whole.transfer]
