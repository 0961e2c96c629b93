"""Finds that are kept cost whoever takes them what they cost whoever made them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from attacks.mma import MMA
from attacks.ring_a_bell import RingABell
from attacks.shared import once
from bench.config.suite import load_suite
from bench.core.meter import Meter
from bench.interfaces import Attack, Concept, Context, Goal, Rng, Role, Target
from bench.model.text_to_image import TextToImage
from bench.run.cells import AttackCell
from bench.run.collect import collect
from bench.run.plan import make_plan
from bench.run.runner import run_plan
from bench.run.store import Store
from bench.tables.spreadsheet import as_csv
from tests.small_pictures import SMALL_SAMPLER, SmallPictures

CONTROLS = ("random_tokens", "seed_search")
KEEP = {"keep": "process"}
BELL = RingABell(**RingABell.quick | KEEP)
SEARCHES = [
    pytest.param(MMA(**MMA.quick | KEEP), id="mma"),
    pytest.param(MMA(**MMA.quick | KEEP, mode="reference"), id="mma, a goal at a time"),
    pytest.param(BELL, id="ring_a_bell"),
    pytest.param(BELL.model_copy(update={"finalists": 2}), id="ring_a_bell that looks"),
]

pytestmark = pytest.mark.usefixtures("nothing_kept")


@pytest.fixture
def goals(concepts: Mapping[str, Concept]) -> list[Goal]:
    return [Goal(n, concepts[n], concepts[n].prompts["name"][0]) for n in ("heart", "moon", "star")]


def cost(spec: Attack, model: TextToImage, goals: Sequence[Goal]) -> Meter:
    meter = Meter()
    spec(Target(model.with_meter(meter), SMALL_SAMPLER, SmallPictures()), goals, rng=Rng(("o",)))
    return meter


@pytest.mark.parametrize("spec", SEARCHES)
def test_what_is_spent_does_not_depend_on_what_was_searched_before(
    spec: Attack, model: TextToImage, goals: list[Goal]
) -> None:
    unet = model.having(Role.OUTPUT)[0]
    other = model.with_weights({unet: 2 * model.parameter(unet)})
    first = cost(spec, model, goals)
    assert (first.reused, first.reused_seconds) == (0, 0.0)
    after = cost(spec, other, goals)
    assert after.reused == len(goals)
    assert after.reused_seconds > 0
    once._found.clear()
    some = cost(spec, model, goals[1:])
    partly = cost(spec, other, goals)
    assert (some.reused, partly.reused) == (0, 2)
    for later in (after, partly):
        assert (later.images, later.gradient_steps) == (first.images, first.gradient_steps)
    assert bool(first.gradient_steps) == spec.gradients


def test_a_goal_has_its_share_of_the_seconds_of_its_search(
    model: TextToImage, goals: list[Goal], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10.0, 16.0, 20.0, 29.0])
    clock = SimpleNamespace(perf_counter=lambda: next(times))
    monkeypatch.setattr(once, "time", clock)
    told = {"search": "none"}

    def ask(meter: Meter, goals: list[Goal]) -> list[str]:
        ctx = Context(Rng(("o",)), meter=meter)

        def search(missing: list[Goal]) -> list[str]:
            ctx.spend(gradient_steps=5)
            return [goal.id for goal in missing]

        return once.once_per_encoder(search, goals, keep="process", model=model, told=told, ctx=ctx)

    ask(Meter(), goals[:2])  # 6 seconds
    ask(Meter(), goals[2:])  # 9 seconds
    meter = Meter()
    assert ask(meter, goals[1:]) == ["moon", "star"]
    assert meter == Meter(gradient_steps=5, reused=2, reused_seconds=12.0)


def test_a_cell_after_another_says_what_it_reused(miniature: TextToImage, tmp_path: Path) -> None:
    quick: dict[str, Any] = {**MMA.quick, **KEEP}
    suite = load_suite("mini-quick").with_(
        name="once", concepts=["star"], methods=["none", "destroyed"],
        attacks=["prompts", *({name: {"tries": 1}} for name in CONTROLS), {"mma": quick}],
        metrics=["accuracy"], goals=2,
        sampler={"steps": 1, "guidance_scale": 3.0}, utility={"neighbours": 1, "others": 1},
    )  # fmt: skip
    plan, store = make_plan(suite, miniature.backbone.digest), Store(tmp_path)
    run_plan(plan, store, miniature)
    cells = [c for c in plan.cells if isinstance(c, AttackCell) and c.attack.name == "mma"]
    entries = [store.find(cell.kind, cell.digest) for cell in cells]
    records: list[Any] = [entry.record["cell"] for entry in entries if entry is not None]
    assert sorted(record.get("reused", 0) for record in records) == [0, 2]
    (later,) = (record for record in records if "reused" in record)
    assert later["reused_seconds"] > 0
    written = pd.read_csv(io.BytesIO(as_csv(collect(plan, store).cells))).set_index("digest")
    taken = written["reused_seconds"].dropna().to_dict()
    after = [c.digest for c, record in zip(cells, records, strict=True) if record is later]
    assert taken == {after[0]: pytest.approx(later["reused_seconds"], rel=1e-4)}
