"""The measurement of speed: that it measures the same work, at a size of seconds."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core.errors import UsageError
from bench.interfaces import Candidate
from bench.model.choosing import gradient_step, timer_on
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.perf import run
from bench.perf.breakdown import SWITCHES, TwoCalls
from bench.perf.flops import operations
from bench.perf.kernels import _took
from bench.perf.machine import folder_name, machine, matmul_peak
from bench.perf.run import measure_speed
from bench.perf.throughput import same_find, throughput
from bench.perf.timing import Job, measure
from bench.perf.workload import Workload, concept, few, one_by_one, reference, size_of

CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_quick_measurement_answers_every_question(tmp_path: Path) -> None:
    folder, found = measure_speed("cpu", out=tmp_path / "perf", quick=True)
    assert json.loads((folder / "perf.json").read_text()) == found
    page = (folder / "README.md").read_text()
    assert "QUICK" in page
    assert "Not measured: Stable Diffusion" in page
    assert found["machine"]["threads"] == torch.get_num_threads()
    mini = found["models"]["miniature"]
    rows = mini["throughput"]
    attacks = {"unlearn_diff_atk", "p4d", "concept_inversion", "ring_a_bell"}
    both = ("float32", "bfloat16")
    assert sorted((r["attack"], r["dtype"]) for r in rows) == sorted(product(attacks, both))
    for full, half in zip(rows[::2], rows[1::2], strict=True):
        assert (full["attack"], full["dtype"], half["dtype"]) == (half["attack"], *both)
        assert full["reference"] == half["reference"]  # one at a time is in float32, for both
    assert re.search(r"ring.*bell \| \d+ \| bfloat16 \|", page)
    for row in rows:
        assert row["prompts"] == row["prompts_alone"] == 2
        if row["dtype"] == "float32":
            assert row["same_finds"] == 2
        # Its bounds are held below: of images this small, the judge's words are a fifth of the work.
        assert row["work_ratio"] > 0.9
        assert row["reference"]["added_mb"] >= 0
        for way in (row["reference"], row["batched"]):
            assert 0 <= way["taken_for_the_concept"] <= way["looked_at"] == 2
    variants = [row["variant"] for row in mini["breakdown"]]
    names = [switch.name for switch in SWITCHES]
    assert variants[0] == "start"
    assert set(variants[1:]) == {f"{how}: {name}" for how in ("alone", "up to") for name in names}
    assert all(name in page for name in names)
    assert [row["skipped"] for row in mini["compilation"]] == ["not tried: no time for it"] * 3
    assert mini.keys() == {"budget", *run.PARTS}
    for dtype in both:
        rows = [row for row in mini["kernels"] if row["dtype"] == dtype]
        # On a CPU in bfloat16 products stand in for attention.
        attention = ["attention of a step"] if dtype == "float32" else []
        assert list(dict.fromkeys(row["what"] for row in rows)) == [
            "choosing at load", *attention, "gradient step", "forward pass",
        ]  # fmt: skip
        steps = [row for row in rows if row["what"] == "gradient step"]
        assert {row["kernels"]["layout"] for row in steps if "seconds" in row} == {
            "contiguous", "channels_last",
        }  # fmt: skip
        assert all("seconds" in row for row in steps if row["kernels"]["norms"] == "eager")
    assert "| torch contiguous fused | needs a GPU and the package triton |" in page
    for row in mini["utilisation"]:
        assert row["gflop"] > 0.1
        # No bound from above: the peak is timed, and a busy machine may time it badly.
        rate, peak = row["gflop"] / row["seconds"], row["matmul_gflop_per_second"]
        assert row["share_of_matmul"] == pytest.approx(rate / peak)
        assert row["share_of_matmul"] > 0


@pytest.mark.parametrize("attack", size_of("miniature").attacks)
def test_both_modes_do_the_same_work(model: TextToImage, attack: str) -> None:
    size = replace(size_of("miniature", quick=True), sampler=Sampler(steps=1))
    some = few(Workload(model, size, attack))
    some.run(steps=1, iterations=1)  # the judge's words are encoded once, whoever asks first
    alone, batch = (
        operations(partial(work.run, steps=1, iterations=1)) for work in (one_by_one(some), some)
    )
    # Only what is new is encoded in a batch of ring_a_bell.
    least, most = (1.03, 4.0) if attack == "ring_a_bell" else (0.9, 1.1)
    assert least < alone / batch < most


def test_parts_of_a_measurement_come_together_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(part: str) -> dict[str, Any]:
        _, found = measure_speed(
            "cpu", out=tmp_path, models=["miniature"], parts=[part], quick=True
        )
        assert json.loads((tmp_path / "perf.json").read_text()) == found
        return found["models"]["miniature"]

    # As in a clean tree, whatever the one that the test runs in: figures of a changed one are not kept.
    monkeypatch.setattr(run, "machine", lambda where: {**machine(where), "dirty": False})
    assert set(measured("compilation")) == {"budget", "compilation"}
    assert (
        "Share of the measured matrix peak\n\nNot measured." in (tmp_path / "README.md").read_text()
    )
    both = measured("utilisation")
    assert set(both) == {"budget", "compilation", "utilisation"}
    assert "| attack step | bfloat16 |" in (tmp_path / "README.md").read_text()
    # Figures of another commit do not stand beside these.
    monkeypatch.setattr(
        run, "machine", lambda where: {**machine(where), "dirty": False, "commit": "another"}
    )
    assert set(measured("compilation")) == {"budget", "compilation"}
    with pytest.raises(UsageError, match="--part: unknown part 'speed'"):
        measure_speed("cpu", out=tmp_path, parts=["speed"])


def test_flops_of_a_few_goals_stand_for_all(model: TextToImage) -> None:
    work = Workload(model, replace(size_of("miniature", quick=True), goals=6), "unlearn_diff_atk")
    assert len(few(work).goals()) == 4
    prompts = [goal.prompt for goal in work.goals()]
    flops = [
        operations(lambda n=n: model.sample(prompts[:n], range(n), work.size.sampler))  # type: ignore[misc]
        for n in (4, 6)
    ]
    assert flops[1] / flops[0] == pytest.approx(6 / 4, rel=0.02)


def test_every_job_runs_once_a_round_and_the_order_turns_round() -> None:
    told: list[str] = []

    def job(name: str) -> Job:
        return Job(run=lambda: told.append(name), warm=lambda: told.append(name.upper()))

    took = measure({name: job(name) for name in "ab"}, 3, CPU)
    assert told == ["A", "B", *"ab", *"ba", *"ab"]
    assert [len(m.seconds) for m in took.values()] == [3, 3]
    told.clear()
    measure({"a": job("a")}, 1, CPU)
    assert told == ["a"], "a single round is not warmed up for"
    with pytest.raises(ValueError, match="at least 1 repeat"):
        measure({}, 0, CPU)


def test_memory_is_the_runs_own() -> None:
    big = Job(run=lambda: torch.ones(64 * 2**18).sum(), warm=lambda: None)  # 64 MiB
    small = Job(run=lambda: torch.ones(2**18).sum(), warm=lambda: None)
    took = measure({"big": big, "small": small}, 2, CPU)
    assert 60 < took["big"].added_mb < 100
    assert took["small"].added_mb < 30


def test_operations_of_a_product_and_its_gradient_are_known() -> None:
    a, b = torch.ones(8, 16, requires_grad=True), torch.ones(16, 32)
    forward = 2 * 8 * 16 * 32
    assert operations(lambda: a @ b) == forward
    assert operations(lambda: torch.autograd.grad((a @ b).sum(), a)) == 2 * forward
    assert matmul_peak(CPU, torch.float32, 128, 2) > 0.01
    assert folder_name(CPU) == "cpu"


def test_two_calls_predict_what_one_does(model: TextToImage) -> None:
    two = TwoCalls(model.backbone, micro=model.micro)
    assert isinstance(replace(two, weights={}), TwoCalls)
    states = model.encode(["a star", "a zorbo"])
    noisy = model.noise([0, 1], Sampler())
    with torch.no_grad():
        contexts = model.guidance.contexts(model, states)
        one, _ = model.guide(noisy, 500, contexts, 3.0)
        other, _ = two.guide(noisy, 500, contexts, 3.0)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_reference_is_the_same_attack_one_by_one(model: TextToImage) -> None:
    size = size_of("miniature", quick=True)
    for attack in size.attacks:
        work = Workload(model, size, attack)
        alone = reference(work)
        assert alone.spec().identity() == work.spec().identity()
        assert [getattr(w.spec(), "mode", None) for w in (work, alone)] == ["batched", "reference"]
        assert alone.model is work.model
        assert [goal.id for goal in alone.goals()] == [goal.id for goal in work.goals()]


def test_repeats_draw_otherwise_and_both_modes_the_same(model: TextToImage) -> None:
    work = Workload(model, size_of("miniature", quick=True), "unlearn_diff_atk")
    one_way, other_way = (job.job() for job in (work, reference(work)))
    found = [[[c.prompt for c in job.run()] for _ in range(3)] for job in (one_way, other_way)]
    assert found[0] == found[1]
    assert len({tuple(prompts) for prompts in found[0]}) > 1


def test_the_reference_has_fewer_goals_where_each_takes_as_long(model: TextToImage) -> None:
    size = replace(size_of("miniature", quick=True), goals=6, alone=2)
    goals = {name: len(reference(Workload(model, size, name)).goals()) for name in size.attacks}
    assert goals == {"unlearn_diff_atk": 2, "p4d": 2, "ring_a_bell": 2, "concept_inversion": 6}
    rows = list(
        throughput(
            {"float32": model},
            replace(size, goals=3, attacks={"ring_a_bell": size.attacks["ring_a_bell"]}),
        )
    )
    figures = [(rows[0][way], n) for way, n in (("reference", 2), ("batched", 3))]
    for way, n in figures:
        assert way["prompts_per_hour"] == pytest.approx(3600 * n / way["seconds"][0])
    assert rows[0]["same_finds"] == rows[0]["prompts_alone"] == 2


@pytest.mark.parametrize(("model", "goals"), [("miniature", 12), ("sd14", 16)])
def test_there_are_as_many_prompts_as_the_size_says(model: str, goals: int) -> None:
    size = size_of(model)
    assert size.goals == goals
    assert len(set(concept().prompts["name"][:goals])) == goals


@pytest.mark.parametrize("has_half", [True, False])
def test_half_precision_is_measured_where_the_device_has_it(
    monkeypatch: pytest.MonkeyPatch, has_half: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **asked: has_half)
    assert run._measured_in(CPU) == ("float32", "bfloat16")
    found = run._measured_in(torch.device("cuda"))
    assert found == (("float32", "bfloat16") if has_half else ("float32",))


def test_finds_are_compared_by_prompt_and_states() -> None:
    states = torch.ones(4, 8)
    one = Candidate(goal="g", prompt="a", states_LD=states)
    assert same_find(one, replace(one, states_LD=states * 1.001))
    assert not same_find(one, replace(one, states_LD=states * 1.1))
    assert not same_find(one, replace(one, states_LD=None))
    assert not same_find(one, replace(one, prompt="b"))


def test_a_gradient_step_goes_through_the_unet(model: TextToImage) -> None:
    grad = gradient_step(model, 2)
    assert grad.shape == model.encode(["a", "b"]).states_BLD.shape
    assert bool((grad != 0).any())


def test_an_unknown_model_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'sd14'"):
        measure_speed("cpu", out=tmp_path, models=["sd15"])


def test_a_measurement_with_a_limit_ends_with_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that has had its time ends with the row that it is at, and the next begins; then all time is over."""
    asked: list[str] = []

    def rows(part: str) -> Iterator[dict[str, Any]]:
        for k in range(3):
            asked.append(f"{part} {k}")
            time.sleep(0.05)
            yield {"skipped": "no", "rows": k, "dtype": "float32", "what": part}

    monkeypatch.setattr(run, "PART_SECONDS", 0.06)
    monkeypatch.setattr(run, "kernels", lambda models, size: rows("kernels"))
    monkeypatch.setattr(run, "compilation", lambda name, device, size: rows("compilation"))
    monkeypatch.setattr(run, "edited", lambda *_: None)
    both = {"models": ["miniature"], "parts": ["kernels", "compilation"], "quick": True}
    _, found = measure_speed("cpu", out=tmp_path, minutes=1, **both)  # type: ignore[arg-type]  # of several kinds
    assert asked[0] == "kernels 0"
    assert "compilation 0" in asked
    assert "kernels 2" not in asked
    assert found == json.loads((tmp_path / "perf.json").read_text())
    _, none = measure_speed("cpu", out=tmp_path / "none", minutes=1e-9, **both)  # type: ignore[arg-type]  # of several kinds
    assert none["models"] == {}
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(UsageError, match="--minutes: expected more than 0, got"):
            measure_speed("cpu", out=tmp_path, minutes=wrong)


def test_a_way_that_fails_says_why_and_the_next_is_measured(model: TextToImage) -> None:
    def fail() -> None:
        raise RuntimeError("no C compiler\nwas found")

    took = partial(_took, model, model.backbone.kernels)
    assert took(fail, timer_on(CPU)) == {"skipped": "no C compiler was found"}
    assert took(lambda: None, lambda work: 1.5) == {"seconds": 1.5}


def test_a_negative_limit_of_compilation_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--compile-seconds: expected 0 or more, got -1"):
        measure_speed("cpu", out=tmp_path, compile_seconds=-1)
