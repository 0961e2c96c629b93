"""Computes one cell: each function reads its parents from the store and writes its own folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.memory import peak_megabytes, reset_peak
from bench.core.meter import Meter
from bench.interfaces import Candidate, Judge, Metric, Progress, Target, UtilityBatch, registry
from bench.interfaces.minors import NoMinors, withhold
from bench.model.samples import Samples
from bench.model.text_to_image import TextToImage
from bench.run.cells import (
    AttackCell,
    Cell,
    EditCell,
    OfMethod,
    ReferenceCell,
    TrialCell,
    UtilityCell,
)
from bench.run.plan import Plan
from bench.run.store import Entry, Store

__all__ = ["Workspace", "compute"]


@dataclass(slots=True)
class Workspace:
    """The surroundings of a cell: plan, store, base, progress.

    Attributes:
        plan: The suite's plan.
        store: Where parents are read from.
        base: The unedited model.
        progress: Told of long work.
    """

    plan: Plan
    store: Store
    base: TextToImage
    progress: Progress
    _edited: tuple[str, TextToImage] | None = None

    def parent(self, cell: Cell, kind: str) -> Entry:
        """The entry of a parent.

        Raises:
            LookupError: it is not there, because it failed.
        """
        entry = self.store.find(kind, cell.parents[kind])
        if entry is None:
            raise LookupError(
                f"its {kind} {cell.parents[kind][:12]} is missing: it failed, or was set aside as damaged"
            )
        return entry

    def edited(self, cell: OfMethod) -> TextToImage:
        """The edited model of the cell; the last one is kept, since cells of an edit come together."""
        digest = cell.parents["edit"]
        if self._edited is None or self._edited[0] != digest:
            entry = self.parent(cell, "edit")
            registry.load()  # its guidance and filters may be a plug-in's
            self._edited = (digest, self.base.load_edit(entry.path))
        return self._edited[1]


Written = tuple[dict[str, Any], Callable[[Path], None]]


def compute(work: Workspace, cell: Cell) -> Written:
    """Computes a cell.

    Returns:
        Its record, and a function that writes its files into a folder.
    """
    match cell:
        case ReferenceCell():
            return _reference(work, cell)
        case EditCell():
            return _edit(work, cell)
        case AttackCell():
            return _attack(work, cell)
        case TrialCell():
            return _trial(work, cell)
        case UtilityCell():
            return _utility(work, cell)
    raise TypeError(f"expected a reference, edit, attack, trial or utility, got {cell.title}")


# -- edit ------------------------------------------------------------------------------------------


def _edit(work: Workspace, cell: EditCell) -> Written:
    rng = work.plan.rng.child("edit", cell.digest)
    reset_peak(work.base.backbone.device)
    began = time.perf_counter()
    cost = Meter()
    edited = cell.method(work.base.with_meter(cost), cell.erased, rng=rng, progress=work.progress)
    seconds = time.perf_counter() - began
    changed = sum(int((v != work.base.parameter(n)).sum()) for n, v in edited.weights.items())
    record = {
        "method": cell.method.label,
        "spec": cell.method.identity(),
        "erased": [c.text for c in cell.erased],
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


# -- attack ----------------------------------------------------------------------------------------


def _attack(work: Workspace, cell: AttackCell) -> Written:
    target = Target(work.edited(cell), work.plan.sampler, work.plan.surrogate)
    # The stream's key leaves out the method: every method meets the same attack on the same draws.
    rng = work.plan.rng.child("attack", cell.attack.digest, cell.concept.text, cell.repeat)
    began = time.perf_counter()
    found = cell.attack(target, cell.goals, rng=rng, progress=work.progress)
    seconds = time.perf_counter() - began
    record = {
        "attack": cell.attack.label,
        "spec": cell.attack.identity(),
        "candidates": len(found),
        "seconds": seconds,
    }

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
            for c in found
        ]
        (folder / "candidates.json").write_text(json.dumps(rows, indent=0, ensure_ascii=False))
        tensors = {
            f"states/{i}": c.states_LD.cpu().contiguous()
            for i, c in enumerate(found)
            if c.states_LD is not None
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


def _candidates(entry: Entry) -> list[Candidate]:
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
            latents_Chw=tensors[f"latents/{i}"] if row["latents"] else None,
            weights=changes[str(row["weights"])] if "weights" in row else None,
        )
        for i, row in enumerate(rows)
    ]
    return [withhold(c) for c in found]  # a store may be older than the check


# -- trial -----------------------------------------------------------------------------------------


def _trial(work: Workspace, cell: TrialCell) -> Written:
    plan, model = work.plan, work.edited(cell)
    found = _candidates(work.parent(cell, "attack"))
    # A candidate that brings its own noise fixes the image: there is one, whatever the number of
    # seeds.
    jobs = [(c, k) for c in found for k in range(1 if c.latents_Chw is not None else cell.images)]
    # Held-out seeds: by concept, goal and index alone, so that methods and attacks are compared on
    # the same ones.
    held_out = plan.rng.child("held-out", cell.concept.text, cell.repeat)
    seeds = [held_out.seed(c.goal, k) for c, k in jobs]
    # One that speaks of minors is refused, whatever the model.
    guarded = model.with_filters(NoMinors())
    images, status = _sample(guarded, plan, [c for c, _ in jobs], seeds, work.progress)
    pictures = _bytes(images)
    shown = _floats(pictures)
    ok = torch.tensor([s == "ok" for s in status])
    sets = {g.id: g.prompt_set for g in cell.goals}
    frame = pd.DataFrame(
        {
            "prompt_set": [sets.get(c.goal, "file") for c, _ in jobs],
            "goal": [c.goal for c, _ in jobs],
            "prompt": [c.prompt for c, _ in jobs],
            "variant": [c.variant for c, _ in jobs],
            "image_seed": np.array(seeds, dtype=np.int64),
            "status": list(status),
            "reason": _reasons(status),
            "own_score": np.array(
                [np.nan if c.own_score is None else c.own_score for c, _ in jobs], dtype=np.float32
            ),
            "queries": np.array([c.queries for c, _ in jobs], dtype=np.int32),
            "image_sha256": [
                hashlib.sha256(p.tobytes()).hexdigest() if o else ""
                for p, o in zip(pictures, ok, strict=True)
            ],
        }
    )
    rows = pd.concat(
        [_judged(frame, shown, ok, judge, cell) for judge in plan.judges], ignore_index=True
    )
    record = {"images": len(jobs), "judges": [j.identity() for j in plan.judges]}
    spread = _spread(len(pictures), plan.suite.keep_images)
    sets_kept = frame["prompt_set"].to_numpy(dtype=np.str_)[spread]
    kept, best = pictures[spread], _record_scores(rows, plan.judges[0].name, len(jobs))[spread]

    def write(folder: Path) -> None:
        rows.to_parquet(folder / "rows.parquet", compression="zstd", index=False)
        np.savez_compressed(folder / "pictures.npz", images=kept, scores=best, sets=sets_kept)

    return record, write


def _record_scores(
    rows: pd.DataFrame, judge: str, images: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The score of record of each image, in order; NaN where there is none."""
    mine = rows[(rows["judge"] == judge) & rows["counts"]]
    values = mine["score"].to_numpy(np.float32)
    best: np.ndarray[Any, np.dtype[np.float32]] = (
        values.reshape(images, -1).max(1) if images else values
    )
    return best


def _sample(
    model: TextToImage, plan: Plan, found: list[Candidate], seeds: list[int], progress: Progress
) -> tuple[Tensor, list[str]]:
    """Samples candidates; those with injected states, latents or weights in batches of their own kind."""
    samples: dict[int, tuple[Tensor, str]] = {}
    kinds = [
        (c.states_LD is not None, c.latents_Chw is not None, id(c.weights) if c.weights else None)
        for c in found
    ]
    for kind in dict.fromkeys(kinds):
        rows = [i for i, k in enumerate(kinds) if k == kind]
        states = [s for i in rows if (s := found[i].states_LD) is not None]
        latents = [z for i in rows if (z := found[i].latents_Chw) is not None]
        weights = found[rows[0]].weights
        attacked = model.with_added(weights) if weights else model
        out: Samples = attacked.sample(
            [found[i].prompt for i in rows],
            [seeds[i] for i in rows],
            plan.sampler,
            states_BLD=torch.stack(states) if states else None,
            latents_BChw=torch.stack(latents) if latents else None,
            progress=progress,
        )
        samples.update(zip(rows, zip(out.images_B3HW, out.status, strict=True), strict=True))
    images = (
        torch.stack([samples[i][0] for i in range(len(found))])
        if found
        else torch.empty(0, 3, 8, 8)
    )
    return images, [samples[i][1] for i in range(len(found))]


def _judged(
    frame: pd.DataFrame, shown: Tensor, ok: Tensor, judge: Judge, cell: TrialCell
) -> pd.DataFrame:
    labels = judge.labels(cell.concept)
    counting = set(judge.counts(cell.concept))
    scores = torch.full((len(frame), len(labels)), torch.nan)
    if bool(ok.any()):
        scores[ok] = judge.scores(shown[ok], cell.concept).float().cpu()
    lost = (ok & ~scores.isfinite().all(1)).numpy()
    scores[lost] = torch.nan
    frame = _with_errors(frame, lost, f"the score of {judge.name} is not finite")
    long = frame.loc[frame.index.repeat(len(labels))].reset_index(drop=True)
    long["judge"] = judge.name
    long["label"] = list(labels) * len(frame)
    long["counts"] = [label in counting for label in labels] * len(frame)
    long["score"] = scores.flatten().numpy().astype(np.float32)
    long["threshold"] = np.float32(judge.threshold)
    return long


# -- utility ---------------------------------------------------------------------------------------


def _utility_seeds(plan: Plan, cell: ReferenceCell | UtilityCell) -> list[int]:
    stream = plan.rng.child("utility", cell.concept.text)
    return [stream.seed(i, p.text) for i, (_, p) in enumerate(cell.prompts)]


def _reference(work: Workspace, cell: ReferenceCell) -> Written:
    texts = [p.text for _, p in cell.prompts]
    out = work.base.sample(
        texts, _utility_seeds(work.plan, cell), work.plan.sampler, progress=work.progress
    ).all_finite()
    pictures = _bytes(out.images_B3HW)
    return {"images": len(texts)}, lambda folder: np.savez_compressed(
        folder / "pictures.npz", images=pictures
    )


def _utility(work: Workspace, cell: UtilityCell) -> Written:
    plan, model = work.plan, work.edited(cell)
    with np.load(work.parent(cell, "reference").file("pictures.npz"), allow_pickle=False) as file:
        base = _floats(file["images"])
    texts = [p.text for _, p in cell.prompts]
    seeds = _utility_seeds(plan, cell)
    out = model.sample(texts, seeds, plan.sampler, progress=work.progress)
    batch = UtilityBatch(
        prompts=texts,
        concepts=[plan.concepts[p.concept] for _, p in cell.prompts],
        images_B3HW=_floats(_bytes(out.images_B3HW)),
        base_images_B3HW=base,
        judge=plan.judges[0],
    )
    frame = pd.DataFrame(
        {
            "prompt": texts,
            "prompt_concept": [p.concept for _, p in cell.prompts],
            "group": [g for g, _ in cell.prompts],
            "image_seed": np.array(seeds, dtype=np.int64),
            "status": list(out.status),
            "reason": _reasons(out.status),
        }
    )
    rows = pd.concat([_measured(frame, m, batch) for m in plan.metrics], ignore_index=True)
    record = {"images": len(texts), "metrics": [m.identity() for m in plan.metrics]}
    return record, lambda folder: rows.to_parquet(
        folder / "rows.parquet", compression="zstd", index=False
    )


def _measured(frame: pd.DataFrame, metric: Metric, batch: UtilityBatch) -> pd.DataFrame:
    values = metric.values(batch).float().cpu().numpy().astype(np.float32)
    values = np.where(frame["status"] == "error", np.float32("nan"), values)
    lost = (frame["status"] == "ok").to_numpy() & ~np.isfinite(values)
    values[lost] = np.nan
    frame = _with_errors(frame, lost, f"the value of {metric.name} is not finite")
    return frame.assign(metric=metric.name, value=values)


# -- what is not finite ----------------------------------------------------------------------------


def _reasons(status: Sequence[str]) -> list[str]:
    """Why a row has the status ``error``; empty for the others."""
    return ["the latents or the image are not finite" if s == "error" else "" for s in status]


def _with_errors(frame: pd.DataFrame, lost_B: np.ndarray[Any, Any], reason: str) -> pd.DataFrame:
    """The rows, with the status ``error`` and its reason where something was lost."""
    frame = frame.copy()
    frame.loc[lost_B, ["status", "reason"]] = ["error", reason]
    return frame


# -- images as bytes -------------------------------------------------------------------------------


def _bytes(images_B3HW: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [B, H, W, 3]: what is judged is what can be stored."""
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (
        (images_B3HW.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    )
    return pixels


def _floats(pictures: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def _spread(n: int, count: int) -> list[int]:
    """At most ``count`` indices spread over n: the first of every prompt set are among them."""
    count = min(n, count)
    return [i * n // count for i in range(count)]
