"""A store as a finished run leaves it, filled with drawn results: large plans without their hours.

    python -m tests.perf.full_store FOLDER REPEATS

fills FOLDER/store for FOLDER/large.yaml, 3,200 cells per repeat; then

    tvc-bench report FOLDER/large.yaml --store FOLDER/store --out FOLDER/report
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
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
from bench.run.cells import (
    AttackCell,
    Cell,
    EditCell,
    JudgedCell,
    MeasuredCell,
    ReferenceCell,
    TrialCell,
    UtilityCell,
)
from bench.run.plan import Plan, make_plan
from bench.run.store import Store

__all__ = ["fill", "large_plan", "made"]

_SIDE = 64


def large_plan(folder: Path, repeats: int, concepts: str | Sequence[str] = "all") -> Plan:
    """The plan of ``folder/large.yaml``, which is written: 5 methods, 20 concepts or those named, 9 attacks."""
    data = yaml.safe_load((SUITES / "mini-quick.yaml").read_text())
    searches = [{"concept_inversion": {"preset": "mini", "steps": n}} for n in range(1, 7)]
    attacks = ["prompts", "seed_search", "random_tokens", *searches]
    data |= {"name": "large", "concepts": concepts, "attacks": attacks, "repeats": repeats}
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(data))
    suite = load_suite(str(path))
    return make_plan(suite, inspect_base(suite.base).digest)


def fill(store: Store, plan: Plan) -> None:
    """Publishes every cell of the plan with drawn rows, pictures, candidates and tensors."""
    for cell in plan.cells:
        rng = np.random.default_rng(int(cell.digest[:8], 16))
        record, write = made(cell, rng)
        timing = {"seconds": 1.0, "model_seconds": 0.9, "micro_batch": 64, "peak_memory_mb": 1e3}
        store.publish(cell.kind, cell.digest, {"cell": record, "timing": timing}, write)


_Made = tuple[dict[str, Any], Callable[[Path], None]]


def made(cell: Cell, rng: np.random.Generator) -> _Made:
    """Returns the record of a cell with drawn results, and what writes its files."""
    match cell:
        case EditCell():
            return _edit(cell)
        case AttackCell():
            return _attack(cell)
        case TrialCell():
            return _trial(cell, rng)
        case ReferenceCell() | UtilityCell():
            return _utility(cell, rng)
        case JudgedCell():
            labels = cell.judge.labels(cell.concept)
            return _score(labels, rng.random((len(cell.trial.goals), len(labels)), np.float32))
        case MeasuredCell():
            return _score(("",), rng.random((len(cell.utility.prompts), 1), np.float32))
    raise TypeError(f"expected a cell of one of the kinds, got {cell.kind}")


def _edit(cell: EditCell) -> _Made:
    counts = ("seconds", "images", "gradient_steps", "parameters_touched", "parameters_total")
    record = dict.fromkeys(counts, 1) | {"peak_memory_mb": None, "slots": ["weights"]}

    def write(folder: Path) -> None:
        (folder / "edit.json").write_text("{}")
        save_file({"unet.x": np.zeros(1, np.float32)}, folder / "weights.safetensors")

    return record | {"method": cell.method.label}, write


def _attack(cell: AttackCell) -> _Made:
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


def _trial(cell: TrialCell, rng: np.random.Generator) -> _Made:
    number, seed = len(cell.goals), Rng(("perf", cell.concept.text))
    frame = pd.DataFrame(
        {
            "candidate": np.arange(number, dtype=np.int32),
            "draw": np.zeros(number, np.int32),
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
        }
    )
    places = np.array([i * number // 8 for i in range(8)], np.int32)
    pictures = _pictures(rng, len(places))

    def write(folder: Path) -> None:
        frame.to_parquet(folder / "rows.parquet", compression="lz4", index=False)
        np.savez_compressed(folder / "pictures.npz", images=pictures, places=places)

    return {}, write


def _utility(cell: ReferenceCell | UtilityCell, rng: np.random.Generator) -> _Made:
    number = len(cell.prompts)
    frame = pd.DataFrame(
        {
            "image_seed": np.arange(number),
            "status": "ok",
            "reason": "",
            "image_sha256": [rng.bytes(32).hex() for _ in range(number)],
        }
    )
    return {}, _writing(frame)


def _score(labels: tuple[str, ...], values_BL: NDArray[np.float32]) -> _Made:
    number, wide = values_BL.shape
    frame = pd.DataFrame(
        {
            "image": np.arange(number, dtype=np.int32).repeat(wide),
            "label": list(labels) * number,
            "value": values_BL.reshape(-1),
            "status": "ok",
            "reason": "",
        }
    )
    return {}, _writing(frame)


def _writing(frame: pd.DataFrame) -> Callable[[Path], None]:
    return lambda folder: frame.to_parquet(folder / "rows.parquet", compression="lz4", index=False)


def _pictures(rng: np.random.Generator, number: int) -> NDArray[np.uint8]:
    """Squares with a little noise: about as large on the disk as the miniature's pictures."""
    squares = rng.integers(0, 8, (number, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    pictures: NDArray[np.uint8] = (
        squares * 28 + rng.integers(0, 28, (number, _SIDE, _SIDE, 3))
    ).astype(np.uint8)
    return pictures


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    fill(Store(place / "store"), large_plan(place, int(sys.argv[2])))
