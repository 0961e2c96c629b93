"""Measures everything on one device and writes the page and the figures."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from bench.digest import write_atomic
from bench.errors import UsageError, unknown
from bench.perf.breakdown import breakdown
from bench.perf.compilation import compilation
from bench.perf.machine import folder_name, machine
from bench.perf.page import page
from bench.perf.throughput import throughput
from bench.perf.utilisation import utilisation
from bench.perf.workload import Dtype, edited, size_of

__all__ = ["MODELS", "measure_speed"]

log = logging.getLogger(__name__)

MODELS: Final = ("miniature", "sd14")
_DTYPES: Final[tuple[Dtype, ...]] = ("float32", "bfloat16")
_ONLY_ON_A_GPU: Final = (
    "Stable Diffusion's size is measured on a GPU only, and this device is a CPU"
)


def measure_speed(
    device: str,
    *,
    out: Path | None = None,
    models: Sequence[str] = (),
    quick: bool = False,
    compile_seconds: float | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Measures speed and memory; writes ``perf.json`` and ``README.md``.

    Args:
        device: A torch device.
        out: Where they go; by default ``results/perf/<device>``.
        models: Of :data:`MODELS`; all by default.
        quick: Tiny: does everything run? The figures mean nothing, and go to ``results/drafts``.
        compile_seconds: So long may a compilation take, 0 tries none; by default as the size says.

    Returns:
        The folder and what is in ``perf.json``.

    Raises:
        UsageError: an unknown model.
    """
    for name in models:
        if name not in MODELS:
            raise UsageError(f"--model: {unknown('model', name, MODELS)}")
    where = torch.device(device)
    if compile_seconds is not None and compile_seconds < 0:
        raise UsageError(f"--compile-seconds: expected 0 or more, got {compile_seconds:g}")
    results = Path("results/drafts/perf" if quick else "results/perf")
    folder = out or results / folder_name(where)
    found: dict[str, Any] = {
        "quick": quick,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(where),
        "models": {
            name: _measured(name, device, quick, compile_seconds) for name in models or MODELS
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    write_atomic(folder / "perf.json", f"{text}\n".encode())
    write_atomic(folder / "README.md", page(found).encode())
    return folder, found


def _measured_in(device: torch.device) -> tuple[Dtype, ...]:
    """The precisions of the throughput: half of it where the device has it, which CPUs only mimic."""
    has_half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return _DTYPES if has_half else ("float32",)


def _measured(name: str, device: str, quick: bool, compile_seconds: float | None) -> dict[str, Any]:
    if name == "sd14" and torch.device(device).type == "cpu":
        return {"skipped": _ONLY_ON_A_GPU}
    size = size_of(name, quick=quick)
    if compile_seconds is not None:
        size = replace(size, compile_limit=compile_seconds)
    budget = {
        "prompts": size.goals, "steps": size.steps, "steps_between_looks": size.block,
        "steps_between_looks_in_the_breakdown": size.often, "repeats": size.repeats,
        "sampler": size.sampler.model_dump(mode="json"), "matrix": size.matrix,
    }  # fmt: skip
    log.info("%s: compilation", name)
    compiled = compilation(name, device, size)
    models = {dtype: edited(name, device, dtype) for dtype in _DTYPES}
    log.info("%s: share of the matrix peak", name)
    share = utilisation(models, size)
    log.info("%s: throughput", name)
    fast = {dtype: models[dtype] for dtype in _measured_in(torch.device(device))}
    rates = throughput(fast, size)
    log.info("%s: breakdown", name)
    return {
        "budget": budget,
        "throughput": rates,
        "breakdown": breakdown(models, size),
        "compilation": compiled,
        "utilisation": share,
    }
