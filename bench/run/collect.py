"""Reads a plan's results from the store as the report's three frames, and the kept pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bench.config.suite import CONTROLS
from bench.core.digest import DamagedError
from bench.interfaces import Attack, Trace
from bench.interfaces.minors import WITHHELD, about_minors
from bench.run.cells import AttackCell, Cell, EditCell, OfAttack, TrialCell, UtilityCell
from bench.run.contents import check, read_candidates, read_pictures, read_rows
from bench.run.plan import Plan
from bench.run.store import Entry, Store
from bench.tables.schema import CELLS, EDITS, TRIALS, UTILITY, conform

__all__ = ["Found", "Results", "collect", "with_traces"]

_TRACE = ("changed", "gradient_steps", "gradient_zero", "gradient_bad", "late_gain")
Pictures = dict[tuple[str, str], list[Any]]


@dataclass(frozen=True, slots=True)
class Found:
    """A find of an attack on a method.

    Attributes:
        attack: What tables call it.
        method: The method's label.
        concept: Its name.
        repeat: Index of the independent edit.
        entry: The attack's folder in the store.
    """

    attack: str
    method: str
    concept: str
    repeat: int
    entry: Entry


@dataclass(slots=True)
class Results:
    """The results of a plan, as far as the store holds them.

    Attributes:
        trials: Rows of ``TRIALS``; a trial that failed has one row of status ``error`` for each
            image it owed.
        utility: Rows of ``UTILITY``.
        edits: Rows of ``EDITS``.
        cells: Rows of ``CELLS``, of the cells that are there.
        pictures: concept -> (method, attack) -> pictures, uint8 [H, W, 3].
        scores: The same for the scores of record.
        prompts: The same for the prompts of the pictures; one that was withheld is not among them.
        candidates: What the attacks found that are no controls.
        missing: Titles of cells that are neither there nor failed: the run is not finished.
        failed: Titles of cells that failed.
        errors: Of cells that are there, a line per reason why rows have the status ``error``.
        seconds: Time spent computing the cells, inside models and in all.
    """

    trials: pd.DataFrame
    utility: pd.DataFrame
    edits: pd.DataFrame
    cells: pd.DataFrame = field(default_factory=CELLS.empty)
    pictures: dict[str, Pictures] = field(default_factory=dict)
    scores: dict[str, Pictures] = field(default_factory=dict)
    prompts: dict[str, Pictures] = field(default_factory=dict)
    candidates: list[Found] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)


def collect(plan: Plan, store: Store) -> Results:
    """Reads every cell of the plan; nothing is computed.

    What is damaged is set aside and counts as missing; the rest is read.
    """
    trials, utility, edits = [TRIALS.empty()], [UTILITY.empty()], [EDITS.empty()]
    out = Results(trials[0], utility[0], edits[0])
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in plan.cells:
        entry = _sound(store, cell.kind, cell.digest)
        if entry is None:
            failed = bool(store.failures(cell.kind, cell.digest))
            (out.failed if failed else out.missing).append(cell.title)
            if isinstance(cell, TrialCell):
                if failed:
                    trials.append(_lost(plan, cell))
                else:
                    out.missing.append(cell.title)
            continue
        timing: Any = entry.record["timing"]
        cells[cell.kind, cell.digest] = _spent(plan, cell, timing)
        out.seconds = (out.seconds[0] + timing["model_seconds"], out.seconds[1] + timing["seconds"])
        if isinstance(cell, TrialCell):
            rows = read_rows(entry)
            _note_errors(rows, cell, out)
            attack = _sound(store, "attack", cell.parents["attack"])
            found = [] if attack is None else read_candidates(attack)
            trials.append(_trial(plan, with_traces(rows, found), cell))
            _pictures(plan, entry, cell, rows, out)
        elif isinstance(cell, UtilityCell):
            rows = read_rows(entry)
            _note_errors(rows, cell, out)
            utility.append(_utility(rows, cell))
        elif isinstance(cell, EditCell):
            edits.append(_edit(entry, cell))
        elif isinstance(cell, AttackCell) and not _is_control(cell.attack):
            out.candidates.append(_found(plan, entry, cell))
    out.trials = conform(_joined(trials)[TRIALS.names], TRIALS)
    out.utility = conform(_joined(utility)[UTILITY.names], UTILITY)
    out.edits = conform(_joined(edits)[EDITS.names], EDITS)
    out.cells = conform(pd.DataFrame(list(cells.values()), columns=CELLS.names), CELLS)
    out.missing = sorted(set(out.missing))
    return out


def _note_errors(rows: pd.DataFrame, cell: Cell, out: Results) -> None:
    lost = rows.loc[rows["status"] == "error", "reason"].value_counts()
    for reason, n in sorted(lost.items(), key=lambda item: str(item[0])):
        out.errors.append(f"{cell.title}: {n} of {len(rows)} rows: {reason}")


def _sound(store: Store, kind: str, digest: str) -> Entry | None:
    """An entry whose files hold what they should; any other is set aside and counts as none."""
    entry = store.find(kind, digest)
    if entry is None:
        return None
    try:
        check(entry)
    except DamagedError as error:
        store.reject(entry, str(error))
        return None
    return entry


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(frames[1:], ignore_index=True) if len(frames) > 1 else frames[0]


def _about(cell: Cell) -> dict[str, Any]:
    return {
        "method": cell.method_label,
        "concept": cell.concept.text,
        "family": cell.concept.family,
        "repeat": cell.repeat,
        "edit_digest": cell.parents.get("edit", cell.digest),
    }


def _spent(plan: Plan, cell: Cell, timing: Mapping[str, Any]) -> dict[str, Any]:
    names = ("seconds", "model_seconds", "micro_batch", "peak_memory_mb")
    return {
        "kind": cell.kind,
        "method": cell.method_label,
        "source": cell.source_label,
        "concept": cell.concept.text,
        "repeat": cell.repeat,
        "attack": plan.attack_name(cell.attack) if isinstance(cell, OfAttack) else "",
        **{name: timing.get(name) for name in names},
        "digest": cell.digest,
    }


def with_traces(rows: pd.DataFrame, candidates: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows with how the search for their goal went; missing where nobody kept account of it.

    Args:
        rows: Of a trial.
        candidates: What its attack stored; without ``trace`` in stores of before there was one.
    """
    by = ["goal", "variant", "prompt"]
    traces = pd.DataFrame(
        [
            {name: row[name] for name in by} | _account(trace)
            for row in candidates
            if (trace := row.get("trace"))
        ],
        columns=[*by, *_TRACE],
    )
    return rows.merge(traces.drop_duplicates(by), on=by, how="left")


def _account(trace: dict[str, Any]) -> dict[str, Any]:
    kept = Trace(**{**trace, "looks": tuple(trace["looks"])})
    values = (kept.changed, kept.steps, kept.zero, kept.bad, kept.late_gain)
    return dict(zip(_TRACE, values, strict=True))


def _trial(plan: Plan, rows: pd.DataFrame, cell: TrialCell) -> pd.DataFrame:
    return rows.assign(
        **_about(cell),
        source=cell.source_label,
        own_threshold=np.float32(plan.surrogate.threshold),
        attack=plan.attack_name(cell.attack),
        access=cell.attack.holds.name.lower(),
        control=cell.attack.control,
        gradients=cell.attack.gradients,
        attack_digest=cell.parents["attack"],
        trial_digest=cell.digest,
    )


def _is_control(attack: Attack) -> bool:
    """Whether what it tries is luck, or the same for every method."""
    return attack.control or attack.name in CONTROLS["attacks"]


def _found(plan: Plan, entry: Entry, cell: AttackCell) -> Found:
    name = plan.attack_name(cell.attack)
    return Found(name, cell.method_label, cell.concept.text, repeat=cell.repeat, entry=entry)


def _lost(plan: Plan, cell: TrialCell) -> pd.DataFrame:
    """Rows of status ``error`` in place of a failed trial: lost images are counted, not dropped."""
    goals = [g for g in cell.goals for _ in range(cell.images)]
    frames = []
    for judge in plan.judges:
        labels, counting = judge.labels(cell.concept), set(judge.counts(cell.concept))
        frame = pd.DataFrame(
            {
                "prompt_set": [g.prompt_set for g in goals],
                "goal": [g.id for g in goals],
                "prompt": [g.prompt for g in goals],
                "variant": [
                    g.prompt_set if len({g.prompt_set for g in goals}) > 1 else "" for g in goals
                ],
                "image_seed": np.arange(len(goals), dtype=np.int64) % cell.images,
                "status": "error",
                "reason": "the cell failed",
                "own_score": np.float32("nan"),
                "queries": np.int32(0),
                **dict.fromkeys(_TRACE),
                "image_sha256": "",
                "judge": judge.name,
                "threshold": np.float32(judge.threshold),
                "score": np.float32("nan"),
            }
        )
        frames += [frame.assign(label=label, counts=label in counting) for label in labels]
    return _trial(plan, pd.concat(frames, ignore_index=True), cell)


def _utility(rows: pd.DataFrame, cell: UtilityCell) -> pd.DataFrame:
    return rows.assign(**_about(cell), utility_digest=cell.digest)


def _edit(entry: Entry, cell: EditCell) -> pd.DataFrame:
    about: Any = entry.record["cell"]
    return pd.DataFrame(
        [
            {
                **_about(cell),
                "concept": concept.text,
                "seconds": about["seconds"],
                "peak_memory_mb": about["peak_memory_mb"],
                "images": about["images"],
                "gradient_steps": about["gradient_steps"],
                "parameters_touched": about["parameters_touched"],
                "parameters_total": about["parameters_total"],
                "slots": ",".join(about["slots"]),
                "preset": about["method"],
                "notes": json.dumps(about.get("notes", {}), sort_keys=True),
            }
            for concept in cell.erased
        ]
    )


def _pictures(plan: Plan, entry: Entry, cell: TrialCell, rows: pd.DataFrame, out: Results) -> None:
    if cell.repeat or cell.source or not plan.suite.keep_images:
        return
    kept = read_pictures(entry)
    prompts = np.array(_prompts(rows, len(kept.images)), dtype=object)
    name_of_attack = plan.attack_name(cell.attack)
    for name in dict.fromkeys(kept.sets.tolist()):
        several = len(cell.attack.prompt_sets) > 1
        key = (cell.method_label, f"{name_of_attack}/{name}" if several else name_of_attack)
        mine, concept = kept.sets == name, cell.concept.text
        out.pictures.setdefault(concept, {})[key] = list(kept.images[mine])
        out.scores.setdefault(concept, {})[key] = list(kept.scores[mine])
        out.prompts.setdefault(concept, {})[key] = list(prompts[mine])


def _prompts(rows: pd.DataFrame, count: int) -> list[str]:
    """The prompts of the pictures that a trial keeps: ``count`` of its images, spread evenly.

    Rows go judge by judge, image by image, label by label.
    """
    first = rows[rows["judge"] == rows["judge"].iloc[0]] if len(rows) else rows
    texts = first["prompt"].tolist()[:: max(1, first["label"].nunique())]
    chosen = [texts[i * len(texts) // count] for i in range(count)] if texts else [""] * count
    return [WITHHELD if about_minors(text) else text for text in chosen]
