"""A store as a finished run leaves it, filled with drawn results: large plans without their hours.

    python -m tests.perf.full_store FOLDER REPEATS

fills FOLDER/store for FOLDER/large.yaml, 2,000 cells per repeat; then

    tvc-bench report FOLDER/large.yaml --store FOLDER/store --out FOLDER/report
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bench.config.suite import SUITES, load_suite
from bench.core.rng import Rng
from bench.model.pipeline.inspect import inspect_base
from bench.run.plan import Cell, Plan, make_plan
from bench.run.store import Store

__all__ = ["fill", "large_plan"]

_SIDE = 64


def large_plan(folder: Path, repeats: int) -> Plan:
    """The plan of ``folder/large.yaml``, which is written: 5 methods, 20 concepts, 9 attacks."""
    data = yaml.safe_load((SUITES / "mini-quick.yaml").read_text())
    searches = [{"concept_inversion": {"preset": "mini", "steps": n}} for n in range(1, 7)]
    attacks = ["prompts", "seed_search", "random_tokens", *searches]
    data |= {"name": "large", "concepts": "all", "attacks": attacks, "repeats": repeats}
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(data))
    suite = load_suite(str(path))
    return make_plan(suite, inspect_base(suite.base).digest)


def fill(store: Store, plan: Plan) -> None:
    """Publishes every cell of the plan with drawn rows, pictures, candidates and tensors."""
    for cell in plan.cells:
        rng = np.random.default_rng(int(cell.digest[:8], 16))
        record, write = _MADE[cell.kind](plan, cell, rng)
        timing = {"seconds": 1.0, "model_seconds": 0.9, "micro_batch": 64, "peak_memory_mb": 1e3}
        store.publish(cell.kind, cell.digest, {"cell": record, "timing": timing}, write)


_Made = tuple[dict[str, Any], Callable[[Path], None]]


def _reference(plan: Plan, cell: Cell, rng: np.random.Generator) -> _Made:
    pictures = _pictures(rng, len(cell.prompts))
    return {}, lambda folder: np.savez_compressed(folder / "pictures.npz", images=pictures)


def _edit(plan: Plan, cell: Cell, rng: np.random.Generator) -> _Made:
    assert cell.method is not None
    counts = ("seconds", "images", "gradient_steps", "parameters_touched", "parameters_total")
    record = dict.fromkeys(counts, 1) | {"peak_memory_mb": None, "slots": ["weights"]}

    def write(folder: Path) -> None:
        (folder / "edit.json").write_text("{}")
        save_file({"unet.x": np.zeros(1, np.float32)}, folder / "weights.safetensors")

    return record | {"method": cell.method.label}, write


def _attack(plan: Plan, cell: Cell, rng: np.random.Generator) -> _Made:
    assert cell.attack is not None
    states = cell.attack.name == "concept_inversion"
    trace = {"looks": [0.1, 0.5], "changed": 0, "steps": 9, "budget": 9, "zero": 0, "bad": 0}
    found = [
        {"goal": g.id, "prompt": g.prompt, "variant": "", "queries": 4, "own_score": 0.5}
        | {"states": states, "latents": False, "trace": trace if states else None}
        for g in cell.goals
    ]

    def write(folder: Path) -> None:
        (folder / "candidates.json").write_text(json.dumps(found, indent=0, ensure_ascii=False))
        if states:
            tensors = {f"states/{i}": np.zeros((32, 128), np.float32) for i in range(len(found))}
            save_file(tensors, folder / "candidates.safetensors")

    return {}, write


def _trial(plan: Plan, cell: Cell, rng: np.random.Generator) -> _Made:
    number, seed = len(cell.goals), Rng(("perf", cell.concept.text))
    frame = pd.DataFrame(
        {
            "prompt_set": [g.prompt_set for g in cell.goals],
            "goal": [g.id for g in cell.goals],
            "prompt": [g.prompt for g in cell.goals],
            "variant": "",
            "image_seed": [seed.seed(g.id, 0) for g in cell.goals],
            "status": "ok",
            "reason": "",
            "own_score": rng.random(number, np.float32),
            "queries": np.full(number, 4, np.int32),
            "image_sha256": [rng.bytes(32).hex() for _ in range(number)],
            "judge": plan.judges[0].name,
            "label": plan.judges[0].labels(cell.concept)[0],
            "counts": True,
            "score": rng.random(number, np.float32),
            "threshold": np.float32(0.5),
        }
    )
    kept = [i * number // 8 for i in range(8)]
    pictures, scores = _pictures(rng, len(kept)), frame["score"].to_numpy()[kept]
    sets = frame["prompt_set"].to_numpy(np.str_)[kept]

    def write(folder: Path) -> None:
        frame.to_parquet(folder / "rows.parquet", compression="zstd", index=False)
        np.savez_compressed(folder / "pictures.npz", images=pictures, scores=scores, sets=sets)

    return {}, write


def _utility(plan: Plan, cell: Cell, rng: np.random.Generator) -> _Made:
    number = len(cell.prompts)
    frame = pd.DataFrame(
        {
            "prompt": [p.text for _, p in cell.prompts],
            "prompt_concept": [p.concept for _, p in cell.prompts],
            "group": [g for g, _ in cell.prompts],
            "image_seed": np.arange(number),
            "status": "ok",
            "reason": "",
        }
    )
    values = {"accuracy": rng.integers(0, 2, number).astype(np.float32)}
    values |= {n: rng.random(number, np.float32) for n in ("clip_score", "drift")}
    rows = pd.concat([frame.assign(metric=n, value=v) for n, v in values.items()])
    return {}, lambda folder: rows.to_parquet(
        folder / "rows.parquet", compression="zstd", index=False
    )


def _pictures(rng: np.random.Generator, number: int) -> NDArray[np.uint8]:
    """Squares with a little noise: about as large on the disk as the miniature's pictures."""
    squares = rng.integers(0, 8, (number, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    pictures: NDArray[np.uint8] = (
        squares * 28 + rng.integers(0, 28, (number, _SIDE, _SIDE, 3))
    ).astype(np.uint8)
    return pictures


_MADE: dict[str, Callable[[Plan, Cell, np.random.Generator], _Made]] = {
    "reference": _reference,
    "edit": _edit,
    "attack": _attack,
    "trial": _trial,
    "utility": _utility,
}

if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    fill(Store(place / "store"), large_plan(place, int(sys.argv[2])))
