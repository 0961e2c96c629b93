"""Computes the edit of a method."""

from __future__ import annotations

import time

from bench.core.memory import peak_megabytes, reset_peak
from bench.core.meter import Meter
from bench.run.cells import EditCell
from bench.run.stages.workspace import Workspace, Written

__all__ = ["edit"]


def edit(work: Workspace, cell: EditCell) -> Written:
    """The edit of a method, with what it spent; see :class:`bench.model.edit_files.Edit` for the files."""
    # The stream's key leaves out the cell's digest: another format of the store changes no edit.
    erased = [concept.text for concept in cell.erased]
    rng = work.plan.rng.child("edit", cell.method.digest, *erased, cell.repeat)
    reset_peak(work.base.backbone.device)
    began = time.perf_counter()
    cost = Meter()
    edited = cell.method(work.base.with_meter(cost), cell.erased, rng=rng, progress=work.progress)
    seconds = time.perf_counter() - began
    changed = sum(int((v != work.base.parameter(n)).sum()) for n, v in edited.weights.items())
    record = {
        "method": cell.method.label,
        "spec": cell.method.identity(),
        "erased": erased,
        "seconds": seconds,
        "peak_memory_mb": peak_megabytes(work.base.backbone.device),
        "images": cost.images,
        "gradient_steps": cost.gradient_steps,
        "parameters_touched": changed,
        "parameters_total": sum(w.numel() for w in work.base.backbone.parameters.values()),
        "slots": sorted(edited.slots),
        "notes": cost.notes,
    }
    return record, edited.save_edit
