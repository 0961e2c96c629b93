"""How long edits take, and that a task vector is applied without a second copy in memory."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.config.suite import load_suite
from bench.core.memory import peak_megabytes, reset_peak
from bench.interfaces import Concept, Rng, bare
from bench.model.text_to_image import TextToImage, load_model
from bench.perf.sd14 import sd14
from methods.few_shot import FewShot
from methods.rece import RECE
from methods.uce import UCE
from tvc.task_vector import TaskVector, subtract_in_place

pytestmark = pytest.mark.perf

# What they should take on two cores at most; kept beside the timings, not asserted: machines are
# noisy.
SECONDS_IN_PLACE, SECONDS_UCE = 3.0, 20.0
MINIATURE = [(FewShot.preset("mini"), 10.0), (UCE.preset("repo-2023"), 2.0), (RECE.preset("mini"), 2.0)]  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sd() -> TextToImage:
    return sd14()


@pytest.fixture(scope="module")
def vector(sd: TextToImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task vector of the whole UNet."""
    deltas = {n: w * 1e-3 for n, w in sd.backbone.parameters.items() if n.startswith("unet.")}
    path = tmp_path_factory.mktemp("vector") / "tau.safetensors"
    TaskVector(sd.backbone.digest, deltas).save(path)
    return path


def test_a_task_vector_of_sd14s_size_in_place(
    benchmark: BenchmarkFixture, sd: TextToImage, vector: Path
) -> None:
    benchmark.extra_info["bar_s"] = SECONDS_IN_PLACE
    unet = sd.backbone.unet
    name, weight = max(unet.named_parameters(), key=lambda pair: pair[1].numel())
    before, place = weight.detach().flatten()[:8].clone(), weight.data_ptr()
    benchmark.pedantic(subtract_in_place, ({"unet": unet}, vector, 0.5), rounds=3, warmup_rounds=1)
    assert weight.data_ptr() == place, name  # in place: the same storage
    # Four runs subtract half of a thousandth each.
    torch.testing.assert_close(weight.detach().flatten()[:8], before * (1 - 4 * 0.5e-3))


def test_it_holds_no_second_copy(
    benchmark: BenchmarkFixture, sd: TextToImage, vector: Path
) -> None:
    """Anonymous memory: the file's pages are mapped, and the system takes them back when it needs them."""
    size = sum(p.numel() * 4 for p in sd.backbone.unet.parameters()) / 2**20
    stop, seen = Event(), [anonymous()]

    def watch() -> None:
        while not stop.is_set():
            seen.append(anonymous())
            time.sleep(0.005)

    watcher = Thread(target=watch)
    watcher.start()
    benchmark.pedantic(subtract_in_place, ({"unet": sd.backbone.unet}, vector, 0.5), rounds=1)
    stop.set()
    watcher.join()
    assert len(seen) > 10
    assert max(seen) - seen[0] < 0.1 * size


def anonymous() -> float:
    """MiB of memory that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("RssAnon:")).split()[1]) / 1024


def test_uce_on_sd14(benchmark: BenchmarkFixture, sd: TextToImage) -> None:
    method = UCE.preset("repo-2023")
    reset_peak(CPU)
    edited = benchmark.pedantic(
        method, (sd, [Concept(text="star")]), {"rng": Rng(("perf",))}, rounds=1
    )
    assert len(edited.weights) == 32
    benchmark.extra_info["bar_s"] = SECONDS_UCE
    benchmark.extra_info["peak_mb"] = peak_megabytes(CPU)


@pytest.mark.parametrize(("method", "seconds"), MINIATURE, ids=lambda x: getattr(x, "name", None))
def test_methods_on_the_miniature(
    benchmark: BenchmarkFixture, method: FewShot | UCE | RECE, seconds: float
) -> None:
    benchmark.extra_info["bar_s"] = seconds
    model = load_model()
    star = bare(load_suite("mini-quick").known_concepts["star"])
    edited = benchmark.pedantic(
        method, (model, [star]), {"rng": Rng(("perf",))}, rounds=3, warmup_rounds=1
    )
    assert "weights" in edited.slots
