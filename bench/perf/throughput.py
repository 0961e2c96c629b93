"""Attacks in one batch against one problem at a time: the same attack, the same budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any, Final

from bench.interfaces import Candidate
from bench.model import TextToImage
from bench.perf.flops import operations
from bench.perf.timing import Measured, measure
from bench.perf.workload import Dtype, Size, Workload, few, one_by_one, reference

__all__ = ["same_find", "throughput"]

_NEAR: Final = 0.01


def throughput(models: Mapping[Dtype, TextToImage], size: Size) -> Iterator[dict[str, Any]]:
    """Rows, one an attack and a precision, each when it is measured.

    Each says whether it was the same attack: FLOPs of a small run one by one over those in a batch
    (1 is the same work), and how many of the finds agree.

    Args:
        models: The edited model in the precisions to measure.
        size: How much.
    """
    for attack, (dtype, model) in product(size.attacks, models.items()):
        batched = Workload(model, size, attack)
        alone = reference(batched)
        some = few(batched)
        counted = {"reference": one_by_one(some), "batched": some}
        flops = {
            name: operations(partial(work.run, steps=1, iterations=1))
            for name, work in counted.items()
        }
        took = measure(
            {"reference": alone.job(), "batched": batched.job()},
            size.repeats,
            model.backbone.device,
        )
        figures = {
            "reference": _figures(took["reference"], alone.size.goals),
            "batched": _figures(took["batched"], size.goals),
        }
        rates = {name: row["prompts_per_hour"] for name, row in figures.items()}
        pairs = zip(took["reference"].result, took["batched"].result, strict=False)
        yield {
            "attack": attack,
            "dtype": dtype,
            "fields": batched.spec().model_dump(mode="json"),
            "prompts": size.goals,
            "prompts_alone": alone.size.goals,
            **figures,
            "ratio": rates["batched"] / rates["reference"],
            "work_ratio": flops["reference"] / flops["batched"],
            "same_finds": sum(same_find(a, b) for a, b in pairs),
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
    return {
        "seconds": list(took.seconds),
        "prompts_per_hour": 3600 * prompts / took.median,
        "peak_mb": took.peak_mb,
        "added_mb": took.added_mb,
    }
