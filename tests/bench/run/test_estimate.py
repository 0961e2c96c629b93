"""Hours of a plan, by what the store's cells took: known answers, and what they rest on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.config.suite import load_suite
from bench.core.digest import JSON
from bench.run.cells import AttackCell, Cell, EditCell, JudgedCell, MeasuredCell, TrialCell
from bench.run.chains import chains_of
from bench.run.estimate import BASES, estimate, hours_on
from bench.run.plan import Plan, make_plan
from bench.run.store import Store
from tests.perf.full_store import made

SECONDS = {
    "edit": 30.0,
    "reference": 2.0,
    "utility": 2.0,
    "trial": 2.0,
    "attack": 10.0,
    "score": 0.5,
}
"""Of an edit; of an image; of a goal."""


def plan_of(**changes: Any) -> Plan:
    fields = {"goals": 2, "concepts": ["star", "moon"], "methods": ["none", "destroyed", "uce"],
              "attacks": ["prompts", "random_tokens", "seed_search"]}  # fmt: skip
    return make_plan(load_suite("mini-quick").with_(**{**fields, **changes}), "0" * 64)


def units(cell: Cell) -> float:
    match cell:
        case EditCell():
            return 1
        case AttackCell() | TrialCell():
            return len(cell.goals)
        case JudgedCell():
            return len(cell.trial.goals)
        case MeasuredCell():
            return len(cell.utility.prompts)
    prompts: Any = vars(type(cell)).get("prompts") and getattr(cell, "prompts", ())
    return len(prompts)


def spec_of(cell: Cell) -> Mapping[str, Any]:
    match cell:
        case EditCell():
            return {"spec": cell.method.identity()}
        case AttackCell():
            return {"spec": cell.attack.identity()}
        case JudgedCell():
            return {"judge": cell.judge.identity(), "images": units(cell)}
        case MeasuredCell():
            return {"metric": cell.metric.identity(), "images": units(cell)}
    return {"images": units(cell)}


def fill(
    store: Store, plan: Plan, keep: Callable[[Cell], bool], *, factor: float = 1.0, base: str = "0" * 64,
    device: str = "x", suite: str | None = None,
) -> None:  # fmt: skip
    """Stores cells as if each had taken its seconds."""
    for cell in filter(keep, plan.cells):
        record, write = made(cell, np.random.default_rng(0))
        about: dict[str, JSON] = {
            "cell": {**record, **spec_of(cell)},
            "timing": {"seconds": factor * SECONDS[cell.kind] * units(cell), "model_seconds": 0.1},
            "parents": dict(cell.parents),
            "suite": suite or plan.suite.name,
            "provenance": {"base": base, "device": {"type": "cpu", "name": device, "threads": 1}},
        }
        store.publish(cell.kind, cell.digest, about, write)


def total(cells: list[Cell]) -> float:
    return sum(SECONDS[cell.kind] * units(cell) for cell in cells)


def of_star(cell: Cell) -> bool:
    return cell.concept.text == "star"


def of_moon(plan: Plan) -> list[Cell]:
    return [cell for cell in plan.cells if cell.concept.text == "moon"]


def test_what_is_alike_takes_as_long(tmp_path: Path) -> None:
    plan, store = plan_of(), Store(tmp_path)
    fill(store, plan, of_star)
    todo = of_moon(plan)
    found = estimate(plan, store, todo)
    assert found.total == pytest.approx(total(todo))
    assert found.rests == {BASES[0]: len(todo)}
    assert found.unknown == {}
    assert found.cells == len(todo)
    assert found.stored == len(plan.cells) - len(todo)
    assert found.device == "cpu x, 1 thread"


def test_another_suite_and_another_part_are_told_apart(tmp_path: Path) -> None:
    plan, store = plan_of(), Store(tmp_path)
    fill(store, plan, lambda c: of_star(c) and c.method_label != "uce", suite="other")
    todo = of_moon(plan)
    found = estimate(plan, store, todo)
    assert found.total == pytest.approx(total(todo)), "the seconds are those of any part here"
    assert found.rests[BASES[1]] + found.rests[BASES[2]] == len(todo)
    uce = [c for c in todo if c.method_label == "uce" and c.kind in ("edit", "utility", "trial")]
    assert found.rests[BASES[2]] == len(uce)


def test_kinds_that_nobody_has_measured_are_named_and_not_counted(tmp_path: Path) -> None:
    plan, store = plan_of(), Store(tmp_path)
    fill(store, plan, lambda cell: cell.kind in ("edit", "reference"))
    todo = [cell for cell in plan.cells if cell.kind not in ("edit", "reference")]
    found = estimate(plan, store, todo)
    attacks = sum(cell.kind == "attack" for cell in todo)
    scores = sum(cell.kind == "score" for cell in todo)
    assert found.unknown == {"attack": attacks, "score": scores}
    samples = [cell for cell in todo if cell.kind in ("utility", "trial")]
    assert found.total == pytest.approx(total(samples)), "an image is an image"


def test_another_base_tells_nothing(tmp_path: Path) -> None:
    plan, store = plan_of(), Store(tmp_path)
    fill(store, plan, of_star, base="1" * 64)
    found = estimate(plan, store, of_moon(plan))
    assert (found.stored, found.each) == (0, {})
    assert sum(found.unknown.values()) == found.cells


def test_devices_are_not_mixed(tmp_path: Path) -> None:
    plan, store = plan_of(), Store(tmp_path)
    fill(store, plan, of_star, device="many")
    fill(store, plan_of(seed=1), lambda c: c.kind == "edit", device="few", factor=100.0)
    found = estimate(plan, store, of_moon(plan))
    assert "many" in found.device
    assert found.total == pytest.approx(total(of_moon(plan)))


def test_hours_shrink_with_workers_as_far_as_chains_allow() -> None:
    plan = plan_of()
    cells = list(plan.cells)
    each = {cell.digest: SECONDS[cell.kind] * units(cell) for cell in cells}
    one, two, many = (hours_on(cells, each, n) for n in (1, 2, 1000))
    assert one == pytest.approx(total(cells) / 3600)
    assert one / 2 <= two < 0.6 * one
    longest = max(each[chain.key] for chain in chains_of(cells))
    assert longest / 3600 < many < two


def test_two_chains_on_two_workers_take_as_long_as_the_longer() -> None:
    plan = plan_of(methods=["none", "destroyed"], concepts=["star"])
    edits = [cell for cell in plan.cells if cell.kind == "edit"]
    assert hours_on(edits, {edits[0].digest: 3600.0, edits[1].digest: 7200.0}, 2) == 2.0
    assert hours_on(edits, {edits[0].digest: 3600.0, edits[1].digest: 7200.0}, 1) == 3.0
