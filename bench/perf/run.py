"""Measures everything on one device and writes the page and the figures."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

from bench.core.digest import write_atomic
from bench.core.errors import UsageError, unknown
from bench.model.text_to_image import TextToImage
from bench.perf.breakdown import breakdown
from bench.perf.compilation import compilation
from bench.perf.kernels import kernels
from bench.perf.machine import folder_name, machine
from bench.perf.page import page
from bench.perf.throughput import throughput
from bench.perf.utilisation import utilisation
from bench.perf.workload import Dtype, edited, size_of

__all__ = ["MODELS", "PARTS", "measure_speed"]

log = logging.getLogger(__name__)

MODELS: Final = ("miniature", "sd14")
PARTS: Final = ("utilisation", "kernels", "throughput", "compilation", "breakdown")
"""The parts that are measured of a model, in this order: what is asked for most comes first."""
PART_SECONDS: Final = 240.0
"""The longest that a part goes on where the whole has a limit; it ends with the row that it is at."""

_DTYPES: Final[tuple[Dtype, ...]] = ("float32", "bfloat16")
_ONLY_ON_A_GPU: Final = (
    "Stable Diffusion's size is measured on a GPU only, and this device is a CPU"
)


def measure_speed(
    device: str,
    *,
    out: Path | None = None,
    models: Sequence[str] = (),
    parts: Sequence[str] = (),
    quick: bool = False,
    compile_seconds: float | None = None,
    minutes: float | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Measures speed and memory; writes ``perf.json`` and ``README.md``, again whenever there is more.

    What the folder holds of the same machine, versions and commit is kept, so that a measurement
    can be made in several calls. Anything else in it is replaced.

    Args:
        device: A torch device.
        out: Where they go; by default ``results/perf/<device>``.
        models: Of :data:`MODELS`; all by default.
        parts: Of :data:`PARTS`; all by default.
        quick: Tiny: does everything run? The figures mean nothing, and go to ``results/drafts``.
        compile_seconds: So long may all compilations take, 0 tries none; by default as the size says.
        minutes: No row begins later, and no part goes on for more than four of them; by default there is no limit.

    Returns:
        The folder and what is in ``perf.json``.

    Raises:
        UsageError: an unknown model or part, or a limit that is none.
    """
    for what, asked, there in (("model", models, MODELS), ("part", parts, PARTS)):
        for name in asked:
            if name not in there:
                raise UsageError(f"--{what}: {unknown(what, name, there)}")
    where = torch.device(device)
    if compile_seconds is not None and compile_seconds < 0:
        raise UsageError(f"--compile-seconds: expected 0 or more, got {compile_seconds:g}")
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"--minutes: expected more than 0, got {minutes:g}")
    ends = math.inf if minutes is None else time.perf_counter() + 60 * minutes
    results = Path("results/drafts/perf" if quick else "results/perf")
    folder = out or results / folder_name(where)
    found: dict[str, Any] = {
        "quick": quick,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(where),
        "models": {},
    }
    found["models"] = _kept(folder / "perf.json", found)
    for name in models or MODELS:
        for new in _measured(name, device, quick, compile_seconds, parts or PARTS, ends):
            found["models"][name] = {**found["models"].get(name, {}), **new}
            _write(folder, found)
    return folder, found


def _kept(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """The models of an earlier call whose figures stand beside this one's: all but the load is the same."""
    if not path.exists():
        return {}
    earlier = json.loads(path.read_text())
    same = [{**run["machine"], "load_before": 0, "quick": run["quick"]} for run in (earlier, found)]
    return dict(earlier["models"]) if same[0] == same[1] and not found["machine"]["dirty"] else {}


def _write(folder: Path, found: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    write_atomic(folder / "perf.json", f"{text}\n".encode())
    write_atomic(folder / "README.md", page(found).encode())


def _measured_in(device: torch.device) -> tuple[Dtype, ...]:
    """The precisions of the batches in the throughput: half of it too, unless a GPU only mimics it."""
    mimics = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return ("float32",) if mimics else _DTYPES


def _measured(
    name: str,
    device: str,
    quick: bool,
    compile_seconds: float | None,
    parts: Sequence[str],
    ends: float,
) -> Iterator[dict[str, Any]]:
    """The parts of a model, one after the other, again with each row of theirs, until a time on the clock."""
    if name == "sd14" and torch.device(device).type == "cpu":
        yield {"skipped": _ONLY_ON_A_GPU}
        return
    size = size_of(name, quick=quick)
    if compile_seconds is not None:
        size = replace(size, compile_limit=compile_seconds)
    budget = {
        "prompts": size.goals, "prompts_alone": min(size.goals, size.alone),
        "steps": size.steps, "steps_between_looks": size.block,
        "steps_between_looks_in_the_breakdown": size.often, "repeats": size.repeats,
        "sampler": size.sampler.model_dump(mode="json"), "matrix": size.matrix,
    }  # fmt: skip

    @cache
    def in_both() -> Mapping[Dtype, TextToImage]:
        return {dtype: edited(name, device, dtype) for dtype in _DTYPES}

    def fast() -> Mapping[Dtype, TextToImage]:
        return {dtype: in_both()[dtype] for dtype in _measured_in(torch.device(device))}

    measures: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
        "utilisation": lambda: utilisation(in_both(), size),
        "kernels": lambda: kernels(in_both(), size),
        "throughput": lambda: throughput(fast(), size),
        "breakdown": lambda: breakdown(in_both(), size),
        "compilation": lambda: compilation(name, device, size),
    }
    for part in PARTS:
        if part not in parts:
            continue
        began = time.perf_counter()
        until = min(ends, began + PART_SECONDS) if ends < math.inf else ends
        rows: list[dict[str, Any]] = []
        measured = iter(measures[part]())
        # A measurement that is cut short leaves what it has.
        while time.perf_counter() < until and (row := next(measured, None)) is not None:
            rows.append(row)
            yield {"budget": budget, part: list(rows)}
        took = time.perf_counter() - began
        over = " (its time was over)" if took >= until - began else ""
        log.info("%s: %s: %d rows in %.0f s%s", name, part, len(rows), took, over)
