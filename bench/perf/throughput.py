"""Attacks in one batch against one problem at a time in float32, as published: the same attack, the same budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from bench.interfaces import Candidate
from bench.model.text_to_image import TextToImage
from bench.perf.flops import operations
from bench.perf.timing import Measured, measure
from bench.perf.workload import Dtype, Size, Workload, few, one_by_one, reference, surrogate

__all__ = ["same_find", "throughput"]

_NEAR: Final = 0.01


def throughput(models: Mapping[Dtype, TextToImage], size: Size) -> Iterator[dict[str, Any]]:
    """Rows, one per attack and precision of the batch, each attack's when it is measured.

    One at a time is in float32, as published. Each row says whether it was the same attack. It has the
    FLOPs of a small run one by one over those in a batch, both in float32 (1 is the same work). It also says
    how many of the finds agree, and how many finds the surrogate takes for the concept in either mode.

    Args:
        models: The edited model in float32, and in the other precisions to measure.
        size: How much.
    """
    for attack in size.attacks:
        batched = {dtype: Workload(model, size, attack) for dtype, model in models.items()}
        alone = reference(batched["float32"])
        some = few(batched["float32"])
        counted = {"reference": one_by_one(some), "batched": some}
        flops = {
            name: operations(partial(work.run, steps=1, iterations=1))
            for name, work in counted.items()
        }
        took = measure(
            {"reference": alone.job(), **{dtype: work.job() for dtype, work in batched.items()}},
            size.repeats,
            models["float32"].backbone.device,
        )
        one = took["reference"]
        for dtype, work in batched.items():
            figures = {
                "reference": _figures(one, alone.size.goals),
                "batched": _figures(took[dtype], size.goals),
            }
            rates = {name: row["prompts_per_hour"] for name, row in figures.items()}
            pairs = [
                pair
                for runs in zip(one.results, took[dtype].results, strict=True)
                for pair in zip(*runs, strict=False)
            ]
            yield {
                "attack": attack,
                "dtype": dtype,
                "fields": work.spec().model_dump(mode="json"),
                "prompts": size.goals,
                "prompts_alone": alone.size.goals,
                **figures,
                "ratio": rates["batched"] / rates["reference"],
                "work_ratio": flops["reference"] / flops["batched"],
                "same_finds": sum(same_find(a, b) for a, b in pairs),
                "compared": len(pairs),
            }


def same_find(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates are the same prompt, with text states that differ by rounding only (1 % in norm)."""
    if one.prompt != other.prompt:
        return False
    if one.states_LD is None or other.states_LD is None:
        return one.states_LD is other.states_LD
    apart = (one.states_LD - other.states_LD).float().norm() / other.states_LD.float().norm()
    return float(apart) < _NEAR


def _figures(took: Measured, prompts: int) -> dict[str, Any]:
    bar = surrogate().threshold
    finds = [find for run in took.results for find in run]
    views = [find.own_score for find in finds if find.own_score is not None]
    return {
        "seconds": list(took.seconds),
        "prompts_per_hour": 3600 * prompts / took.median,
        "peak_mb": took.peak_mb,
        "added_mb": took.added_mb,
        "looked_at": len(views),
        "taken_for_the_concept": sum(view >= bar for view in views),
    }
