"""A plan takes seconds and megabytes, whatever a suite asks for; what would take more is refused in a line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.config.budget import MOST_CHARACTERS, MOST_PROMPTS, Laid
from bench.config.suite import load_suite
from bench.core.digest import canonical_json, digest_of, digest_of_parts
from bench.core.errors import UsageError
from bench.core.spec import Spec
from bench.interfaces import Concept, UtilityPrompt
from bench.run.plan import make_plan
from bench.run.planning.utility_prompts import in_turn


def test_a_digest_of_parts_is_the_digest_of_the_whole() -> None:
    whole: dict[str, Any] = {"b": [1, "é", None], "a": {"z": 1.5, "y": "\u2028"}, "edit": "0" * 64}
    assert digest_of_parts({k: canonical_json(v) for k, v in whole.items()}) == digest_of(whole)


def test_what_cells_share_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    identity, label = Spec.identity, Spec.label.fget  # type: ignore[attr-defined] # a property
    asked: Counter[str] = Counter()

    def counted_identity(self: Spec) -> dict[str, Any]:
        asked["identity"] += 1
        return identity(self)

    def counted_label(self: Spec) -> str:
        asked["label"] += 1
        told: str = label(self)
        return told

    monkeypatch.setattr(Spec, "identity", counted_identity)
    monkeypatch.setattr(Spec, "label", property(counted_label))
    few, many = (
        load_suite("mini-quick").with_(repeats=n, transfer=["prompts"], together=[1, 3])
        for n in (1, 8)
    )
    asked.clear()
    cells = len(make_plan(few, "0" * 64).cells)
    once = Counter(asked)
    assert once["identity"] and once["label"]
    asked.clear()
    assert len(make_plan(many, "0" * 64).cells) > 7 * cells
    assert asked == once


def test_many_prompts_are_refused() -> None:
    laid = Laid(edits=2)
    laid.prompts(MOST_PROMPTS)
    with pytest.raises(UsageError, match="at most 500,000 prompts"):
        laid.prompts(1)


def test_much_text_in_searches_is_refused() -> None:
    laid = Laid(edits=1000)
    laid.searches(["x" * (MOST_CHARACTERS // 1000)])
    with pytest.raises(UsageError, match="at most 500,000,000 characters"):
        laid.searches(["x"])


def test_a_plan_counts_all_rows_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt\n" + "a star\n" * 45_000)
    file = {"prompts": {"file": str(tmp_path / "rows.csv")}}
    suite = load_suite("mini-quick").with_(
        concepts=["all"], attacks=[file, "random_tokens", "seed_search"], goals=1
    )
    assert len(suite.concepts) * 45_000 > MOST_PROMPTS
    with pytest.raises(UsageError, match="at most 500,000 prompts"):
        make_plan(suite, "0" * 64)


def test_utility_prompts_are_taken_in_turn() -> None:
    pools = [
        iter([_asks(f"{name}{i}") for i in range(n)]) for name, n in (("a", 1), ("b", 3), ("c", 2))
    ]
    assert [p.text for p in in_turn(pools)] == ["a0", "b0", "c0", "b1", "c1", "b2"]


def test_a_concepts_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "concepts.json"
    prompts = {name: ["a star"] for name in ("name", "synonyms", "indirect")}
    path.write_text(json.dumps({"star": {"text": "star", "prompts": prompts}}))
    suite = load_suite("mini-quick").with_(
        concepts=["star"], concepts_file=str(path), methods=["none", "destroyed"]
    )
    before = make_plan(suite, "0" * 64)
    path.write_text("{}")
    assert make_plan(suite, "0" * 64).suite_digest == before.suite_digest
    assert suite.concepts == (Concept(text="star", prompts=prompts),)


def _asks(text: str) -> UtilityPrompt:
    return UtilityPrompt(text=text, concept="x")
