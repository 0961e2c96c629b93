"""The share of the device's measured matrix peak that an attack's step and sampling reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

from bench.model.text_to_image import TextToImage
from bench.perf.flops import counting_flops, operations
from bench.perf.machine import matmul_peak
from bench.perf.timing import Job, measure, synchronised
from bench.perf.workload import Dtype, Size, Workload, few

__all__ = ["utilisation"]

_ATTACK = "unlearn_diff_atk"


def utilisation(models: Mapping[Dtype, TextToImage], size: Size) -> Iterator[dict[str, Any]]:
    """Rows of an attack's gradient step and of sampling, in half precision first: FLOPs, seconds, share of the peak.

    Args:
        models: The edited model in the precisions to measure.
        size: How much.
    """
    for dtype, model in reversed(list(models.items())):
        peak = matmul_peak(model.backbone.device, model.backbone.dtype, size.matrix, 10)
        work = Workload(model, size, _ATTACK)
        for measured in (_step, _sampling):
            what, flops, seconds = measured(work)
            yield {
                "what": what,
                "dtype": dtype,
                "rows": size.goals,
                "kernels": model.backbone.kernels.as_json(),
                "gflop": flops / 1e9,
                "seconds": seconds,
                "gflop_per_second": flops / 1e9 / seconds,
                "matmul_gflop_per_second": peak,
                "share_of_matmul": flops / 1e9 / seconds / peak,
            }


def _step(work: Workload) -> tuple[str, int, float]:
    """A gradient step of all goals: what passes between two calls of the attack's progress, looks apart."""
    where, times, counted = work.model.backbone.device, list[float](), list[int]()

    def clock(done: int, total: int, what: str) -> None:
        times.append(synchronised(where))

    some = few(work)
    with counting_flops() as so_far:
        some.run(lambda done, total, what: counted.append(so_far()), steps=2, iterations=2)
    share = work.size.goals / some.size.goals
    steps = max(3, work.size.steps // 2)
    work.run(clock, steps=steps, iterations=steps)
    took = [later - sooner for sooner, later in pairwise(times)]
    return "attack step", round(share * (counted[1] - counted[0])), median(took)


def _sampling(work: Workload) -> tuple[str, int, float]:
    """Sampling an image of every goal's prompt."""
    prompts = [goal.prompt for goal in work.goals()]
    some = few(work)
    counted = some.size.goals

    def sample(model: TextToImage, rows: int) -> object:
        return model.sample(prompts[:rows], range(rows), work.size.sampler)

    flops = operations(partial(sample, some.model, counted)) * len(prompts) / counted
    run = partial(sample, work.model, len(prompts))
    job = {"sampling": Job(run=run, warm=run)}
    took = measure(job, work.size.repeats, work.model.backbone.device)["sampling"]
    return f"sampling, {work.size.sampler.steps} steps", round(flops), took.median
