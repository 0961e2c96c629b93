"""Peak memory of a piece of work: the device's on a GPU, the process's resident set on a CPU."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

__all__ = ["peak_megabytes", "reset_peak"]

_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak(device: torch.device) -> None:
    """Forgets earlier peaks, where the system can (Linux, CUDA)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _REFS.write_text("5")
    except OSError:
        return


def peak_megabytes(device: torch.device) -> float:
    """The peak since :func:`reset_peak`, in MiB (since the process began, where it cannot be reset)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        scale = 2**20 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
