"""Interleaved timings: the machine's noise and drift meet every variant alike."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch

from bench.core.memory import peak_megabytes, reset_peak

__all__ = ["Job", "Measured", "measure", "synchronised"]


@dataclass(frozen=True, slots=True)
class Job:
    """A variant of a piece of work.

    Attributes:
        run: The work that is timed.
        warm: The same at a small budget, but with tensors of the same shapes; it goes before the
            timings.
    """

    run: Callable[[], Any]
    warm: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """The time and memory that a job took.

    Attributes:
        seconds: One per repeat.
        peak_mb: Peak memory in MiB: of the device on a GPU, of the process on a CPU.
        added_mb: The same above what was held before, which is the models and the libraries.
        results: What the runs returned, one per repeat.
    """

    seconds: tuple[float, ...]
    peak_mb: float
    added_mb: float
    results: tuple[Any, ...]

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return median(self.seconds)


def measure(jobs: Mapping[str, Job], repeats: int, device: torch.device) -> dict[str, Measured]:
    """Runs every job once per round; the order turns round each time.

    Args:
        jobs: By name.
        repeats: Rounds that count; warming up comes before them, unless there is one alone, whose figures
            only show that everything runs.
        device: Waited for before a clock is read.

    Raises:
        ValueError: no repeats.
    """
    if repeats < 1:
        raise ValueError(f"expected at least 1 repeat, got {repeats}")
    for job in jobs.values() if repeats > 1 else ():
        job.warm()
    gc.collect()
    runs: dict[str, list[_Run]] = {name: [] for name in jobs}
    for round_ in range(repeats):
        order: Sequence[str] = list(jobs)[:: -1 if round_ % 2 else 1]
        for name in order:
            runs[name].append(_timed(jobs[name], device))
    return {
        name: Measured(
            tuple(run.seconds for run in done),
            max(run.peak_mb for run in done),
            max(run.added_mb for run in done),
            tuple(run.result for run in done),
        )
        for name, done in runs.items()
    }


def synchronised(device: torch.device) -> float:
    """The clock in seconds, read when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _Run(NamedTuple):
    seconds: float
    peak_mb: float
    added_mb: float
    result: Any


def _timed(job: Job, device: torch.device) -> _Run:
    _give_back()
    reset_peak(device)
    before = peak_megabytes(device)
    began = synchronised(device)
    result = job.run()
    seconds = synchronised(device) - began
    peak = peak_megabytes(device)
    return _Run(seconds, peak, peak - before, result)


def _give_back() -> None:
    """Makes glibc return freed memory, which the command line tells it to keep and would count for a later job."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
