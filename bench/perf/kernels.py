"""Kernels against one another: attention by its shapes, and gradient steps and forward passes in every way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any, Final, cast

import torch

from bench.core.errors import in_one_line
from bench.core.rng import normal_rows
from bench.model.choosing import attended, attention_times, choose, gradient_step, timer_on
from bench.model.kernels.blocks import can_fuse
from bench.model.kernels.choice import KINDS, Kernels
from bench.model.text_to_image import TextToImage
from bench.perf.flops import operations
from bench.perf.machine import matmul_peak
from bench.perf.workload import COUNTED, Dtype, Size

__all__ = ["kernels"]

_ON_A_CPU: Final = "on a CPU nothing is chosen"
_NO_FUSED: Final = "needs a GPU and the package triton"
_NO_MEMORY: Final = "out of memory"
_NOT_HERE: Final = "cannot be used here, or is out of memory"


def kernels(models: Mapping[Dtype, TextToImage], size: Size) -> Iterator[dict[str, Any]]:
    """Rows of each precision, half of it first: what is chosen at load, attention, and the denoiser in every way.

    Args:
        models: The edited model in the precisions to measure; it has its kernels again afterwards.
        size: How much.
    """
    for dtype, model in reversed(list(models.items())):
        before = model.backbone.kernels
        try:
            for row in _of(model, size):
                yield {"dtype": dtype, "rows": size.goals, **row}
        finally:
            model.backbone.use(before)


def _of(model: TextToImage, size: Size) -> Iterator[dict[str, Any]]:
    base, timer = model.backbone, timer_on(model.device, min(2, size.repeats))
    began = time.perf_counter()
    if model.device.type == "cuda":
        chosen = choose(base, {}, timer, rows=min(8, size.goals))
        took: dict[str, Any] = {"seconds": time.perf_counter() - began}
    else:
        chosen, took = base.kernels, {"skipped": _ON_A_CPU}
    yield {"what": "choosing at load", "kernels": chosen.as_json(), **took}
    calls = attended(model)  # none where products stand in for attention: bfloat16 on a CPU
    times = attention_times(calls, size.goals, model.device, timer) if calls else {}
    for name, seconds in times.items():
        took = {"skipped": _NOT_HERE} if seconds == math.inf else {"seconds": seconds}
        yield {"what": "attention of a step", "kernels": {"attention": name}, **took}
    peak = matmul_peak(model.device, model.dtype, size.matrix, 10)
    for what, work in (("gradient step", gradient_step), ("forward pass", _forward)):
        base.use(Kernels())
        few = min(size.goals, COUNTED)
        gflop = operations(partial(work, model, few)) * size.goals / few / 1e9
        for way in _ways(chosen):
            took = _took(model, way, partial(work, model, size.goals), timer)
            if "seconds" in took:
                took |= {"gflop": gflop, "share_of_matmul": gflop / took["seconds"] / peak}
            yield {"what": what, "kernels": way.as_json(), **took}


def _ways(chosen: Kernels) -> Iterator[Kernels]:
    """All layouts and norms, with torch's attention and with the chosen one."""
    attention = dict.fromkeys(("torch", chosen.attention))
    for names in product(attention, KINDS["layout"], KINDS["norms"]):
        yield Kernels(*cast("Any", names))


def _took(
    model: TextToImage,
    way: Kernels,
    work: Callable[[], object],
    timer: Callable[[Callable[[], object]], float],
) -> dict[str, Any]:
    if way.norms == "fused" and not can_fuse(model.device.type):
        return {"skipped": _NO_FUSED}
    model.backbone.use(way)
    try:
        return {"seconds": timer(work)}
    except torch.OutOfMemoryError:
        return {"skipped": _NO_MEMORY}
    except Exception as error:
        # Triton lacks a compiler, a driver, ...: the row says so, and the next is measured.
        return {"skipped": in_one_line(error)[:200]}


@torch.no_grad()
def _forward(model: TextToImage, rows: int) -> object:
    noisy_BChw = normal_rows(model.latent_shape, range(rows)).to(model.device, model.dtype)
    return model.denoise(noisy_BChw, 500, model.encode(["a picture"] * rows))
