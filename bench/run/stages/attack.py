"""Computes the finds of an attack on an edit, and reads them back."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.meter import Meter
from bench.interfaces import Candidate, Target
from bench.interfaces.minors import withhold
from bench.run.cells import AttackCell
from bench.run.stages.workspace import Workspace, Written
from bench.run.store import Entry

__all__ = ["attack", "read_candidates"]


def attack(work: Workspace, cell: AttackCell) -> Written:
    """The candidates of an attack on an edit, in ``candidates.json`` and ``candidates.safetensors``."""
    cost = Meter()
    model = work.edited(cell).with_meter(cost)
    target = Target(model, work.plan.sampler, work.plan.surrogate)
    # The stream's key leaves out the method: every method meets the same attack on the same draws.
    rng = work.plan.rng.child("attack", cell.attack.digest, cell.concept.text, cell.repeat)
    began = time.perf_counter()
    found = cell.attack(target, cell.goals, rng=rng, progress=work.progress)
    seconds = time.perf_counter() - began
    record: dict[str, Any] = {
        "attack": cell.attack.label,
        "spec": cell.attack.identity(),
        "candidates": len(found),
        "seconds": seconds,
    }
    if cost.reused:  # the measured seconds lack what these took in another cell
        record |= {"reused": cost.reused, "reused_seconds": cost.reused_seconds}
    if cost.notes:
        record["notes"] = cost.notes

    # Goals may share a difference: it is stored once.
    different = {id(c.weights): c.weights for c in found if c.weights}
    places = {key: place for place, key in enumerate(different)}

    def write(folder: Path) -> None:
        rows = [
            {k: getattr(c, k) for k in ("goal", "prompt", "own_score", "queries", "variant")}
            | {"states": c.states_LD is not None, "latents": c.latents_Chw is not None}
            | {"trace": None if c.trace is None else asdict(c.trace)}
            # Only where there is a difference: which of the different ones it is.
            | ({"weights": places[id(c.weights)]} if c.weights else {})
            | ({"start": c.start} if c.start else {})
            for c in found
        ]
        (folder / "candidates.json").write_text(json.dumps(rows, indent=0, ensure_ascii=False))
        tensors = {
            f"states/{i}": c.states_LD.cpu().contiguous()
            for i, c in enumerate(found)
            if c.states_LD is not None
        }
        tensors |= {
            f"pooled/{i}": c.pooled_D.cpu().contiguous()
            for i, c in enumerate(found)
            if c.pooled_D is not None
        }
        tensors |= {
            f"latents/{i}": c.latents_Chw.cpu().contiguous()
            for i, c in enumerate(found)
            if c.latents_Chw is not None
        }
        tensors |= {
            f"weights/{place}/{name}": change.float().cpu().contiguous()
            for place, changes in enumerate(different.values())
            for name, change in changes.items()
        }
        if tensors:
            save_file(tensors, folder / "candidates.safetensors")

    return record, write


def read_candidates(entry: Entry) -> list[Candidate]:
    """The candidates that an attack has stored; those that speak of minors are withheld."""
    rows: Any = entry.read_json("candidates.json")
    file = "candidates.safetensors"
    tensors = load_file(entry.file(file)) if file in entry.files else {}
    changes: dict[str, dict[str, Tensor]] = {}
    for name in tensors:
        if name.startswith("weights/"):
            _, place, parameter = name.split("/", 2)
            changes.setdefault(place, {})[parameter] = tensors[name]
    found = [
        Candidate(
            goal=row["goal"],
            prompt=row["prompt"],
            own_score=row["own_score"],
            queries=row["queries"],
            variant=row["variant"],
            states_LD=tensors[f"states/{i}"] if row["states"] else None,
            pooled_D=tensors.get(f"pooled/{i}"),
            latents_Chw=tensors[f"latents/{i}"] if row["latents"] else None,
            weights=changes[str(row["weights"])] if "weights" in row else None,
            start=row.get("start", 0),
        )
        for i, row in enumerate(rows)
    ]
    return [withhold(c) for c in found]  # a store may be older than the check
