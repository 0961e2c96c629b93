"""Hours from counts: the counts are what attacks really do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.config.suite import load_suite
from bench.interfaces import Attack, Concept, Goal, Rng, Target, registry
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.rehearse import hours
from bench.rehearse.hours import GROUND, Speed, counted, gradient_rows, images_of, measured
from bench.rehearse.protocols import H200
from bench.run.cells import AttackCell, ReferenceCell, TrialCell
from bench.run.plan import make_plan

PERF = Path(__file__).parents[3] / "results" / "perf" / "nvidia-h200" / "perf.json"
STAR = Concept(text="star", prompts={"name": ("a red star", "a blue star")})


def rows_with_a_gradient(model: TextToImage, attack: Attack) -> int:
    """Rows of the UNet that carried a gradient while an attack ran on two goals."""
    rows = 0

    def count(module: torch.nn.Module, args: Any, named: dict[str, Any]) -> None:
        nonlocal rows
        states = named.get("encoder_hidden_states", args[2] if len(args) > 2 else None)
        if torch.is_grad_enabled() and states is not None and states.requires_grad:
            rows += len(states)

    judge: Any = registry.build("judge", "mini_judge")
    goals = [Goal(str(n), STAR, text) for n, text in enumerate(STAR.prompts["name"])]
    hook = model.backbone.unet.register_forward_pre_hook(count, with_kwargs=True)
    try:
        attack(Target(model, Sampler(steps=1), judge), goals, rng=Rng(("hours",)))
    finally:
        hook.remove()
    return rows


@pytest.mark.parametrize(
    "entry",
    [
        {"unlearn_diff_atk": {"steps": 4, "iterations": 2, "stop": "never"}},
        {"p4d": {"steps": 4, "iterations": 2, "tokens": 3}},
        {"concept_inversion": {"images": 2, "steps": 3, "draws": 2, "restarts": 2, "checks": 1}},
        {"ring_a_bell": {"population": 2, "generations": 2, "finalists": 1, "keep": "nothing", "tokens": 4}},
        "prompts",
    ],
    ids=lambda entry: entry if isinstance(entry, str) else next(iter(entry)),
)  # fmt: skip
def test_an_attack_asks_for_as_many_gradients_as_is_counted(model: TextToImage, entry: Any) -> None:
    attack: Any = registry.build("attack", entry)
    assert rows_with_a_gradient(model, attack) == gradient_rows(attack, 2)


def test_hours_are_counts_times_speed() -> None:
    plan = make_plan(load_suite("mini-quick"), "0" * 64)
    found = counted(plan, Speed(image_step=2.0, gradient_row=3.0, device="a device"))
    images = sum(map(images_of, plan.cells))
    inversions = [
        c for c in plan.cells if isinstance(c, AttackCell) and c.attack.name == "concept_inversion"
    ]
    rows = sum(gradient_rows(c.attack, len(c.goals)) or 0 for c in inversions)
    samples = (ReferenceCell, TrialCell)
    assert images > sum(images_of(c) for c in plan.cells if isinstance(c, samples)) > 0 < rows
    edits = found.unknown["edit"]
    assert edits == 3, "task_vector trains, on three concepts"
    assert found.total == pytest.approx(images * 2.0 * plan.sampler.steps + rows * 3.0)
    assert found.rests == {GROUND: len(found.each)}
    assert len(found.each) + edits == sum(c.kind != "score" for c in plan.cells)


def test_a_speed_is_measured(model: TextToImage) -> None:
    speed = measured(model, Sampler(steps=2))
    assert speed.image_step > 0 < speed.gradient_row
    assert speed.device


@pytest.mark.parametrize(
    ("large", "long", "rows"), [(1, 0.0, [2, 2, 1]), (999, 1e9, [4, 4] * 2 + [2, 2])]
)
def test_a_large_base_is_measured_by_one_row_on_a_cpu_and_a_slow_one_once(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch, large: int, long: float, rows: list[int]
) -> None:
    monkeypatch.setattr(hours, "_LARGE", large)
    monkeypatch.setattr(hours, "_LONG", long)
    seen: list[int] = []
    unet = model.backbone.unet
    with unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0]))):
        measured(model, Sampler(steps=2))
    assert seen == rows  # two guided steps, and a gradient step


def test_the_speed_of_the_table_is_the_one_that_was_measured() -> None:
    rows = json.loads(PERF.read_text())["models"]["sd14"]["utilisation"]
    step, sampling = ({r["what"]: r for r in rows if r["dtype"] == "bfloat16"}[what]
                      for what in ("attack step", "sampling, 4 steps"))  # fmt: skip
    assert H200.image_step == pytest.approx(sampling["seconds"] / (sampling["rows"] * 4), rel=0.01)
    assert H200.gradient_row == pytest.approx(step["seconds"] / step["rows"], rel=0.01)
