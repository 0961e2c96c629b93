"""Shows what a change makes slower: `make perf` measures it, and nothing else runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.config.suite import load_suite
from bench.core.digest import digest_of
from bench.core.rng import generator_for
from bench.interfaces import Rng, bare
from bench.model.choosing import gradient_step
from bench.model.on_cpu import unsuit
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model
from bench.run.plan import make_plan
from bench.run.store import Store
from methods.uce import UCE, solve

pytestmark = pytest.mark.perf

PROMPTS = ["a red star on a blank background, as a sketch"] * 64
SD14 = [(320, 10), (640, 10), (1280, 12)]  # key and value matrices of the UNet: width, how many


@pytest.fixture(scope="module")
def model() -> TextToImage:
    return load_model()


def test_sampling_of_64_images(benchmark: BenchmarkFixture, model: TextToImage) -> None:
    out = benchmark.pedantic(
        model.sample, args=(PROMPTS, range(64), Sampler()), rounds=3, warmup_rounds=1
    )
    assert out.status == ("ok",) * 64


def test_unet_forward_of_32(benchmark: BenchmarkFixture, model: TextToImage) -> None:
    states, noisy = model.encode(PROMPTS[:32]), model.noise(range(32), Sampler())

    @torch.no_grad()
    def forward() -> Tensor:
        return model.denoise(noisy, 500, states)

    assert benchmark(forward).shape == noisy.shape


def test_uce_on_the_miniature(benchmark: BenchmarkFixture, model: TextToImage) -> None:
    star = bare(load_suite("mini-quick").known_concepts["star"])
    method = UCE.preset("repo-2023")
    edited = benchmark(method, model, [star], rng=Rng(("perf",)))
    assert len(edited.weights) == len(method.parameters(model))


def test_uces_solve_at_the_sizes_of_sd14(benchmark: BenchmarkFixture) -> None:
    draw = generator_for("perf")
    matrices = [torch.randn(w, 768, generator=draw) for w, n in SD14 for _ in range(n)]
    erase, guide, keep = (torch.randn(n, 768, generator=draw) for n in (75, 75, 77))
    assert len(matrices) == 32

    def edit() -> list[Tensor]:
        return [solve(w, erase, guide, keep, lam=0.5, s_e=1.0, s_p=1.0) for w in matrices]

    edited = benchmark.pedantic(edit, rounds=3, warmup_rounds=1)
    assert [len(w) for w in edited] == [w for w, n in SD14 for _ in range(n)]


def test_plan_of_10000_cells(benchmark: BenchmarkFixture) -> None:
    tries: list[Any] = [{"random_tokens": {"tries": n}} for n in range(1, 11)]
    suite = load_suite("mini-quick").with_(
        concepts="all", attacks=["prompts", "seed_search", *tries], repeats=5
    )
    plan = benchmark.pedantic(make_plan, args=(suite, "0" * 64), rounds=2)
    assert len(plan.cells) >= 10_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 1,000 entries of 4 kB."""
    root = tmp_path_factory.mktemp("store")
    made = Store(root)
    for k in range(1000):
        made.publish("trial", digest_of(k), {"k": k}, lambda folder: _write(folder / "rows"))
    return root


def _write(path: Path) -> None:
    path.write_bytes(bytes(4096))


def test_find_of_1000_entries_for_the_first_time(benchmark: BenchmarkFixture, store: Path) -> None:
    def find() -> int:
        opened = Store(store)
        return sum(opened.find("trial", digest_of(k)) is not None for k in range(1000))

    assert benchmark(find) == 1000


def test_find_of_1000_entries_again(benchmark: BenchmarkFixture, store: Path) -> None:
    opened = Store(store)

    def find() -> int:
        return sum(opened.find("trial", digest_of(k)) is not None for k in range(1000))

    assert find() == 1000
    assert benchmark(find) == 1000


@pytest.mark.parametrize(
    ("dtype", "kernels"), [("float32", "fused"), ("bfloat16", "fused"), ("bfloat16", "ours")]
)
@pytest.mark.parametrize("rows", [1, 12])
def test_a_gradient_through_the_unet(
    benchmark: BenchmarkFixture, rows: int, dtype: Literal["float32", "bfloat16"], kernels: str
) -> None:
    """With what ``bench/model/on_cpu.py`` changes, and without."""
    one = load_model(dtype=dtype)
    if kernels == "fused":
        unsuit(one.backbone.unet, one.backbone.vae, one.backbone.text_encoder)
    assert benchmark(gradient_step, one, rows).isfinite().all()
