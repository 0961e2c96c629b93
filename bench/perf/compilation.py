"""Measures what ``torch.compile`` gives: a gradient step through the UNet, plain and compiled, in a process of its own.

A process of its own, because compiling writes into the networks, can take minutes and can fail; a
limit of time ends it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final, cast

import torch

from bench.model.choosing import gradient_step
from bench.model.text_to_image import TextToImage
from bench.perf.timing import synchronised
from bench.perf.workload import Dtype, Size, edited

__all__ = ["compilation"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_TIMED: Final = 10


def compilation(model: str, device: str, size: Size) -> Iterator[dict[str, Any]]:
    """Rows: in a batch in bfloat16, in a batch, and one row at a time; each has a reason where it has no figures.

    ``size.compile_limit`` is for all of them together.
    """
    cases: tuple[tuple[int, Dtype], ...] = (
        (size.goals, "bfloat16"), (size.goals, "float32"), (1, "float32"),
    )  # fmt: skip
    left = size.compile_limit
    for rows, dtype in cases:
        began = time.perf_counter()
        row = _in_a_process(model, device, rows, dtype, left)
        yield {"rows": rows, "dtype": dtype, **row}
        left = max(0.0, left - (time.perf_counter() - began))


def _in_a_process(model: str, device: str, rows: int, dtype: Dtype, limit: float) -> dict[str, Any]:
    if not limit:
        return {"skipped": "not tried: no time for it"}
    words = [sys.executable, "-m", "bench.perf.compilation", model, device, str(rows), dtype]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=limit, cwd=_ROOT, check=False
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"did not finish compiling within {limit:.0f} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"skipped": f"failed: {said[-1][:200]}"}
    return cast("dict[str, Any]", json.loads(done.stdout.splitlines()[-1]))


def compared(model: TextToImage, rows: int) -> dict[str, Any]:
    """Seconds of a plain and of a compiled step, of compiling, and by how much the gradients differ."""
    device = model.backbone.device
    plain = gradient_step(model, rows)
    plain_s = _seconds(model, rows, device)
    model.backbone.compile_networks()
    began = synchronised(device)
    compiled = gradient_step(model, rows)
    compile_s = synchronised(device) - began
    compiled_s = _seconds(model, rows, device)
    apart = (compiled - plain).float().norm() / plain.float().norm()
    return {
        "plain_s": plain_s,
        "compiled_s": compiled_s,
        "ratio": plain_s / compiled_s,
        "compile_s": compile_s,
        "relative_difference": float(apart),
    }


def _seconds(model: TextToImage, rows: int, device: torch.device) -> float:
    took = []
    for _ in range(_TIMED + 1):
        began = synchronised(device)
        gradient_step(model, rows)
        took.append(synchronised(device) - began)
    return median(took[1:])


if __name__ == "__main__":
    model, device, rows, dtype = sys.argv[1:]
    found = compared(edited(model, device, cast("Dtype", dtype)), int(rows))
    sys.stdout.write(json.dumps(found) + "\n")
