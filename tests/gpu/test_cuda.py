"""Needs a GPU, and is skipped without: memory that runs out, half precision, the same search in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.shared.prompt_search import Noised, token_gradient
from attacks.shared.tokens import place, table
from bench.core.memory import peak_megabytes, reset_peak
from bench.interfaces import (
    Attack,
    Candidate,
    Concept,
    Erasure,
    Goal,
    Judge,
    Rng,
    Target,
    bare,
    registry,
)
from bench.model.batching import MicroBatch
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SAMPLER = Sampler(steps=2)


@pytest.fixture(scope="module")
def on_gpu() -> TextToImage:
    return load_model(device="cuda")


@pytest.fixture(scope="module")
def halved() -> TextToImage:
    return load_model(device="cuda", dtype="bfloat16")


@pytest.fixture
def little_memory() -> Iterator[None]:
    """The process may have no more than 1.5 GiB beside what it holds."""
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((held + 1.5 * 2**30) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def _goals(concept: Concept, n: int) -> list[Goal]:
    texts = concept.prompts["name"][:n]
    return [Goal(id=f"name-{k:03d}", concept=bare(concept), prompt=t) for k, t in enumerate(texts)]


def _attacked(model: TextToImage, goals: Sequence[Goal], spec: dict[str, Any]) -> list[Candidate]:
    attack, judge = registry.build("attack", spec), registry.build("judge", "clip_zero_shot")
    assert isinstance(attack, Attack)
    assert isinstance(judge, Judge)
    return attack(Target(model, SAMPLER, judge), goals, rng=Rng(("gpu",)))


def _gradient(model: TextToImage, rows: int) -> Tensor:
    prompts = ["a star"] * rows
    sites = place(model, prompts, 2, "prefix")
    generator = torch.Generator().manual_seed(0)
    shape = (rows, *model.latent_shape)
    clean, noise = (torch.randn(*shape, generator=generator).cuda() for _ in range(2))
    picked = table(model)[torch.arange(2 * rows).remainder(300)].view(rows, 2, -1)
    judge = registry.build("judge", "clip_zero_shot")
    assert isinstance(judge, Judge)
    target = Target(model, SAMPLER, judge)
    return token_gradient(target, sites, picked, Noised(clean, noise, 500), 1.0)[1]


@pytest.mark.usefixtures("little_memory")
def test_a_gradient_that_does_not_fit_is_halved_and_the_same(on_gpu: TextToImage) -> None:
    small = replace(on_gpu, micro=MicroBatch(16))
    wanted = _gradient(small, 512)
    assert small.micro.halvings == 0
    large = replace(on_gpu, micro=MicroBatch(512))
    found = _gradient(large, 512)
    assert large.micro.halvings > 0
    assert 16 <= large.micro.gradient_size < 512  # memory of a try that failed was given back
    assert large.micro.size == 512
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.usefixtures("little_memory")
def test_sampling_that_does_not_fit_is_halved_and_the_same(on_gpu: TextToImage) -> None:
    n = 4096
    prompts = ["a star", "a house"] * (n // 2)
    large = replace(on_gpu, micro=MicroBatch(n))
    found = large.sample(prompts, range(n), SAMPLER).images_B3HW
    assert large.micro.halvings > 0
    few = replace(on_gpu, micro=MicroBatch(8)).sample(prompts[-8:], range(n - 8, n), SAMPLER)
    # Convolutions in TF32 round differently at another batch.
    assert float((found[-8:] - few.images_B3HW).abs().mean()) < 2e-3


def test_the_peak_is_of_the_device(on_gpu: TextToImage) -> None:
    where = torch.device("cuda")
    reset_peak(where)
    before = peak_megabytes(where)
    on_gpu.sample(["a star"] * 64, range(64), SAMPLER)
    assert peak_megabytes(where) > before + 10


@pytest.mark.parametrize("name", ["unlearn_diff_atk", "p4d", "ring_a_bell"])
def test_a_goal_finds_alone_what_it_finds_in_a_batch(
    on_gpu: TextToImage, concepts: Mapping[str, Concept], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In float32 proper: TF32 rounds a batch otherwise than a row, and a search over tokens can turn on that.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    known: dict[str, dict[str, Any]] = {
        "unlearn_diff_atk": {"steps": 6, "iterations": 3, "prompts": 1, "finalists": 0},
        "p4d": {"steps": 6, "iterations": 3},
        "ring_a_bell": {"generations": 4, "population": 20, "keep": "nothing"},
    }
    goals = _goals(concepts["star"], 4)
    spec = {"preset": "mini", **known[name]}
    together = _attacked(on_gpu, goals, {name: spec})
    alone = _attacked(on_gpu, goals, {name: {**spec, "mode": "reference"}})
    assert [c.prompt for c in together] == [c.prompt for c in alone]


def test_half_precision_draws_what_single_does(on_gpu: TextToImage, halved: TextToImage) -> None:
    prompts = ["a red star", "a blue house"] * 8
    images = [m.sample(prompts, range(16), Sampler(steps=6)).images_B3HW for m in (on_gpu, halved)]
    assert all(bool(torch.isfinite(x).all()) for x in images)
    assert float((images[0] - images[1]).abs().mean()) < 0.05


@pytest.mark.parametrize(
    "spec",
    [
        {"uce": {"preset": "repo-2023"}},
        {"esd": {"preset": "mini", "iterations": 4}},
        {"task_vector": {"preset": "mini", "alpha": 1.0, "steps": 4, "images": 8}},
        {
            "task_vector": {
                "preset": "mini", "steps": 4, "images": 8, "rows": 4, "inversion_steps": 40, "samples": 2,
                "largest": 1.0,
            }
        },
    ],
    ids=lambda spec: "-".join(map(str, spec)),
)  # fmt: skip
def test_edits_are_made_in_half_precision(
    halved: TextToImage, concepts: Mapping[str, Concept], spec: dict[str, Any]
) -> None:
    method = registry.build("method", spec)
    assert isinstance(method, Erasure)
    edited = method(halved, [bare(concepts["star"])], rng=Rng(("gpu",)))
    assert edited.weights
    assert any(not torch.equal(v, halved.parameter(n)) for n, v in edited.weights.items())
    for value in edited.weights.values():
        assert value.dtype == torch.bfloat16
        assert bool(torch.isfinite(value).all())


@pytest.mark.parametrize("name", ["unlearn_diff_atk", "p4d", "concept_inversion"])
def test_attacks_run_in_half_precision(
    halved: TextToImage, concepts: Mapping[str, Concept], name: str
) -> None:
    goals = _goals(concepts["star"], 3)
    found = _attacked(halved, goals, {name: {"preset": "mini", "steps": 4}})
    assert [c.goal for c in found] == [g.id for g in goals]
    for candidate in found:
        if candidate.states_LD is not None:
            assert bool(torch.isfinite(candidate.states_LD.float()).all())


@pytest.mark.slow
def test_compiled_networks_draw_the_same(halved: TextToImage) -> None:
    compiled = load_model(device="cuda", dtype="bfloat16", compile=True)
    prompts = ["a red star", "a blue house"] * 4
    images = [m.sample(prompts, range(8), SAMPLER).images_B3HW for m in (halved, compiled)]
    assert float((images[0] - images[1]).abs().mean()) < 0.02
    assert compiled.digest == halved.digest
