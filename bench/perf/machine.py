"""The machine that speed is measured on, and the fastest that it multiplies matrices."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.core.rng import generator_for
from bench.perf.timing import synchronised
from bench.run.provenance import commit
from bench.tables.text import slug

__all__ = ["folder_name", "machine", "matmul_peak"]

_CPUINFO = Path("/proc/cpuinfo")


def machine(device: torch.device) -> dict[str, Any]:
    """JSON: commit, device, cores, threads, versions, load; numbers mean nothing without it."""
    precision = {"float32_matmul": torch.get_float32_matmul_precision()}
    if device.type == "cuda":
        precision["cudnn_tf32"] = str(torch.backends.cudnn.allow_tf32)
    return {
        **commit(),
        "device": device.type,
        "name": _name(device),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "diffusers", "transformers")},
        **precision,
    }  # fmt: skip


def folder_name(device: torch.device) -> str:
    """Where the results of this device go: ``cpu``, or the GPU's name."""
    return "cpu" if device.type == "cpu" else slug(_name(device))


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()


def _cpu() -> str:
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    return next(named, platform.machine())


def matmul_peak(device: torch.device, dtype: torch.dtype, side: int, repeats: int) -> float:
    """The best of some products of square matrices, in GFLOP/s: what the device was seen to reach.

    Args:
        device: Where.
        dtype: In which precision.
        side: Of the matrices.
        repeats: After one that does not count.
    """
    draw = generator_for("matmul", side)
    a, b = (torch.randn(side, side, generator=draw).to(device, dtype) for _ in range(2))
    best = float("inf")
    for repeat in range(repeats + 1):
        began = synchronised(device)
        torch.mm(a, b)
        took = synchronised(device) - began
        best = min(best, took) if repeat else best
    return 2 * side**3 / best / 1e9
