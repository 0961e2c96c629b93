"""Fixtures shared by the tests: the miniature, its concepts, a sampler of two steps."""

from __future__ import annotations

import gc
import hashlib
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.api import concepts as known_concepts
from bench.interfaces import Concept
from bench.model.batching import MicroBatch
from bench.model.families.family import Family
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model
from tests.order import longest_first
from tests.places import roomy_memory

_CORES = 2
_GARBAGE = 50_000, 20, 20


def pytest_configure() -> None:
    """Two cores for all workers of pytest-xdist together, and never more than the machine gave."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, min(torch.get_num_threads(), _CORES // workers)))
    # A million objects of torch and of pytest's own are there to stay. To look through them for
    # garbage again and again took a tenth of the time.
    gc.set_threshold(*_GARBAGE)
    if (memory := roomy_memory()) is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))  # pytest's name for the place


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers share files out in the order of collection."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = longest_first(items, Path(__file__).parent)


def pytest_collection_finish() -> None:
    """Leaves out of all further collections of garbage whatever imports and collection made."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """The interpreter tidies up at its end as ever; libraries report what is left as leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def miniature() -> TextToImage:
    """The miniature, loaded once; take ``model`` instead."""
    return load_model("miniature")


@pytest.fixture
def model(miniature: TextToImage) -> TextToImage:
    """The miniature, with a micro-batch of the test's own."""
    return replace(miniature, micro=MicroBatch(64))


@pytest.fixture(scope="session")
def double_networks(miniature: TextToImage) -> Family:
    """The miniature's networks in float64, made once; take ``exact`` instead."""
    backbone = miniature.backbone
    parts = {n: deepcopy(getattr(backbone, n)).double() for n in ("unet", "text_encoder", "vae")}
    return replace(backbone, **parts)


@pytest.fixture
def exact(double_networks: Family) -> TextToImage:
    """The miniature in float64: kernels and threads differ by 1e-12 there, whatever the processor.

    For tests that compare two ways to the same numbers. In float32 each processor rounds otherwise,
    and solvers and optimisers make that large.
    """
    return TextToImage(double_networks, micro=MicroBatch(64))


@pytest.fixture(scope="session")
def concepts(miniature: TextToImage) -> Mapping[str, Concept]:
    """The miniature's concepts by name."""
    return known_concepts(miniature)


@pytest.fixture(scope="session")
def tiny_sampler() -> Sampler:
    """The quickest sampler that has a step after the first."""
    return Sampler(steps=2)


@pytest.fixture(scope="session")
def fingerprint() -> Callable[[TextToImage], str]:
    """A function that hashes every value of the base model's networks."""
    return _fingerprint


@pytest.fixture(scope="session")
def global_rng() -> Callable[[], Mapping[str, object]]:
    """A function that tells the state of each random generator that others share."""
    return _global_rng


@pytest.fixture
def global_rng_untouched() -> Iterator[None]:
    """Fails a test that draws from, or seeds, a random generator that others share."""
    before = _global_rng()
    yield
    drawn = [name for name, state in _global_rng().items() if state != before[name]]
    assert not drawn, f"the global generators of {drawn} were used; draw from the Rng instead"


@pytest.fixture(scope="session")
def little_memory() -> Callable[[torch.nn.Module, int], AbstractContextManager[list[int]]]:
    """A context in which a network runs out of memory above so many rows; it tells the sizes refused."""
    return _little_memory


@contextmanager
def _little_memory(network: torch.nn.Module, rows: int) -> Iterator[list[int]]:
    refused: list[int] = []

    def check(module: torch.nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        size = len(args[0] if args else named["input_ids"])
        if size > rows:
            refused.append(size)
            raise torch.OutOfMemoryError(f"no memory for {size} rows")

    hook = network.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield refused
    finally:
        hook.remove()


def _global_rng() -> dict[str, object]:
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002 (it is read to see that nobody uses it)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(numpy),
        "random": random.getstate(),
    }


def _fingerprint(model: TextToImage) -> str:
    sha = hashlib.sha256()
    for part in (model.backbone.unet, model.backbone.text_encoder, model.backbone.vae):
        for name, value in part.state_dict().items():
            sha.update(name.encode())
            sha.update(_bytes(value))
    return sha.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
