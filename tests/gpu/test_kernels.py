"""Needs a GPU, and is skipped without: the kernels that are chosen there, and what each way computes."""

from __future__ import annotations

from itertools import product
from typing import Any, Literal

import pytest
import torch

from bench.model.choosing import attended, attention_times, gradient_step, timer_on
from bench.model.kernels.blocks import can_fuse
from bench.model.kernels.choice import KINDS, Kernels
from bench.model.sampler import Sampler
from bench.model.text_to_image import load_model
from bench.run.provenance import provenance

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

NEAR = {"float32": 1e-2, "bfloat16": 1e-1}
"""Convolutions in TF32 round differently in each layout; a gradient goes through all layers twice."""


@pytest.mark.parametrize("dtype", NEAR)
def test_every_way_gives_the_same_gradient(dtype: Literal["float32", "bfloat16"]) -> None:
    model = load_model(device="cuda", dtype=dtype, kernels="torch contiguous eager")
    assert model.backbone.kernels == Kernels()
    wanted = gradient_step(model, 4).float()
    ways: list[Any] = list(product(*KINDS.values()))
    for way in (Kernels(*names) for names in ways):
        if way.norms == "fused" and not can_fuse("cuda"):
            continue
        model.backbone.use(way)
        assert model.backbone.kernels == way
        apart = (gradient_step(model, 4).float() - wanted).norm() / wanted.norm()
        assert apart < NEAR[dtype], way


def test_a_choice_is_made_at_load_and_recorded() -> None:
    model = load_model(device="cuda", dtype="bfloat16", kernels="channels_last")
    chosen = model.backbone.kernels
    assert chosen.layout == "channels_last"
    assert provenance(model)["kernels"] == chosen.as_json()
    images = model.sample(["a red star"] * 2, range(2), Sampler(steps=2)).images_B3HW
    assert bool(torch.isfinite(images).all())
    assert load_model(device="cuda", dtype="bfloat16").digest == model.digest


def test_the_half_precision_kernels_are_there() -> None:
    model = load_model(device="cuda", dtype="bfloat16", kernels="torch contiguous eager")
    device = model.device
    times = attention_times(attended(model), 4, device, timer_on(device))
    assert times.keys() == set(KINDS["attention"])
    assert all(times[name] < float("inf") for name in ("torch", "math", "efficient"))
