"""Reads a plan's results from the store: each cell once, whatever is damaged set aside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bench.config.suite import CONTROLS
from bench.core.digest import DamagedError
from bench.interfaces import Attack
from bench.interfaces.minors import WITHHELD, about_minors
from bench.run.cells import AttackCell, Cell, EditCell, OfAttack, TrialCell, UtilityCell
from bench.run.contents import Content, Pictures, read, read_pictures
from bench.run.gather import Gathered
from bench.run.plan import Plan
from bench.run.results import Found, Results
from bench.run.store import Entry, Store
from bench.run.traces import SEARCH, TRACE, traces_of, with_traces
from bench.tables.schema import CELLS, EDITS, TRIALS, UTILITY, conform

__all__ = ["collect"]


def collect(plan: Plan, store: Store) -> Results:
    """Reads every cell of the plan, each once; nothing is computed.

    What is damaged is set aside and counts as missing; the rest is read.
    """
    reading = _Reading(plan, store)
    for cell in plan.cells:
        reading.read(cell)
    return reading.results()


class _Reading:
    """The results as far as they are read."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store
        self._out = Results()
        self._names: dict[int, str] = {}
        self._trials = Gathered(TRIALS, elsewhere=TRACE)
        self._utility = Gathered(UTILITY)
        self._traces: list[tuple[Any, ...]] = []
        self._edits: list[dict[str, Any]] = []
        self._cells: dict[tuple[str, str], dict[str, Any]] = {}
        self._attacks: set[str] = set()

    def read(self, cell: Cell) -> None:
        """Takes a cell in, or notes that it is missing or failed."""
        entry = self._store.find(cell.kind, cell.digest)
        if entry is not None:
            try:
                self._take(cell, entry, read(entry))
            except DamagedError as error:
                self._store.reject(entry, str(error))
                entry = None
        if entry is None:
            failed = bool(self._store.failures(cell.kind, cell.digest))
            (self._out.failed if failed else self._out.missing).append(cell.title)
            if failed and isinstance(cell, TrialCell):
                for rows in _lost(self._plan, cell):
                    self._trials.add(rows, self._trial(cell))

    def results(self) -> Results:
        """Returns what was read, once all of it is."""
        out = self._out
        traces = pd.DataFrame(self._traces, columns=[*SEARCH, *TRACE])
        out.trials = conform(with_traces(self._trials.frame(), traces)[TRIALS.names], TRIALS)
        out.utility = self._utility.frame()
        out.edits = conform(pd.DataFrame(self._edits, columns=EDITS.names), EDITS)
        out.cells = conform(pd.DataFrame(list(self._cells.values()), columns=CELLS.names), CELLS)
        out.missing = sorted(set(out.missing))
        return out

    def _take(self, cell: Cell, entry: Entry, content: Content) -> None:
        out = self._out
        if content.rows is not None:
            if isinstance(cell, TrialCell):
                shown = not cell.repeat and not cell.source and self._plan.suite.keep_images
                kept = read_pictures(entry) if shown else None
                self._trials.add(content.rows, self._trial(cell))
                if kept is not None:
                    self._pictures(cell, entry, kept=kept, rows=content.rows)
            elif isinstance(cell, UtilityCell):
                about = _about(cell) | {"utility_digest": cell.digest}
                self._utility.add(content.rows, about)
            _note_errors(content.rows, cell, out)
        if content.candidates is not None and cell.digest not in self._attacks:
            self._attacks.add(cell.digest)
            self._traces += traces_of(content.candidates, cell.digest)
        if isinstance(cell, EditCell):
            self._edits += _edit(entry, cell)
        elif isinstance(cell, AttackCell) and not _is_control(cell.attack):
            out.candidates.append(
                Found(
                    self._name(cell.attack),
                    cell.method_label,
                    cell.concept.text,
                    repeat=cell.repeat,
                    entry=_lean(entry),
                )
            )
        timing: Any = entry.record["timing"]
        self._cells[cell.kind, cell.digest] = self._spent(cell, timing)
        out.seconds = (out.seconds[0] + timing["model_seconds"], out.seconds[1] + timing["seconds"])

    def _name(self, attack: Attack) -> str:
        """As :meth:`Plan.attack_name`: thousands of cells share a few."""
        if id(attack) not in self._names:
            self._names[id(attack)] = self._plan.attack_name(attack)
        return self._names[id(attack)]

    def _trial(self, cell: TrialCell) -> dict[str, Any]:
        return _about(cell) | {
            "source": cell.source_label,
            "own_threshold": self._plan.surrogate.threshold,
            "attack": self._name(cell.attack),
            "access": cell.attack.holds.name.lower(),
            "control": cell.attack.control,
            "gradients": cell.attack.gradients,
            "attack_digest": cell.parents["attack"],
            "trial_digest": cell.digest,
        }

    def _spent(self, cell: Cell, timing: Mapping[str, Any]) -> dict[str, Any]:
        names = ("seconds", "model_seconds", "micro_batch", "peak_memory_mb")
        return {
            "kind": cell.kind,
            "method": cell.method_label,
            "source": cell.source_label,
            "concept": cell.concept.text,
            "repeat": cell.repeat,
            "attack": self._name(cell.attack) if isinstance(cell, OfAttack) else "",
            **{name: timing.get(name) for name in names},
            "digest": cell.digest,
        }

    def _pictures(self, cell: TrialCell, entry: Entry, *, kept: Pictures, rows: pa.Table) -> None:
        """Notes what the grids show of a trial: an ordinary one of the first repeat."""
        prompts = np.array(_prompts(rows, len(kept.images)), dtype=object)
        attack, method = self._name(cell.attack), cell.method_label
        several, concept = len(cell.attack.prompt_sets) > 1, cell.concept.text
        for name in dict.fromkeys(kept.sets.tolist()):
            key, mine = (method, f"{attack}/{name}" if several else attack), kept.sets == name
            self._out.pictures.add(concept, key, entry=_lean(entry), prompt_set=name)
            self._out.scores.setdefault(concept, {})[key] = list(kept.scores[mine])
            self._out.prompts.setdefault(concept, {})[key] = list(prompts[mine])


def _about(cell: Cell) -> dict[str, Any]:
    """The columns that the rows of all kinds of cells share."""
    return {
        "method": cell.method_label,
        "concept": cell.concept.text,
        "family": cell.concept.family,
        "repeat": cell.repeat,
        "edit_digest": cell.parents.get("edit", cell.digest),
    }


def _lean(entry: Entry) -> Entry:
    """The entry without its record, which a report of thousands of cells need not hold."""
    return replace(entry, record={})


def _note_errors(rows: pa.Table, cell: Cell, out: Results) -> None:
    lost = rows.filter(pc.equal(rows["status"], "error"))["reason"].value_counts().to_pylist()
    for reason, n in sorted((str(one["values"]), one["counts"]) for one in lost):
        out.errors.append(f"{cell.title}: {n} of {len(rows)} rows: {reason}")


def _is_control(attack: Attack) -> bool:
    """Whether what it tries is luck, or the same for every method."""
    return attack.control or attack.name in CONTROLS["attacks"]


def _lost(plan: Plan, cell: TrialCell) -> Iterator[pa.Table]:
    """Rows of status ``error`` in place of a failed trial: lost images are counted, not dropped."""
    goals = [g for g in cell.goals for _ in range(cell.images)]
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
                "image_sha256": "",
                "judge": judge.name,
                "threshold": np.float32(judge.threshold),
                "score": np.float32("nan"),
            }
        )
        for label in labels:
            rows = frame.assign(label=label, counts=label in counting)
            yield pa.Table.from_pandas(rows, preserve_index=False)


def _edit(entry: Entry, cell: EditCell) -> list[dict[str, Any]]:
    """A row per concept that the edit erased."""
    about: Any = entry.record["cell"]
    return [
        {
            **{name: value for name, value in _about(cell).items() if name in EDITS.names},
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


def _prompts(rows: pa.Table, count: int) -> list[str]:
    """The prompts of the pictures that a trial keeps: ``count`` of its images, spread evenly.

    Rows go judge by judge, image by image, label by label.
    """
    judges, labels = rows["judge"].to_pylist(), rows["label"].to_pylist()
    first = [i for i, judge in enumerate(judges) if judge == judges[0]]
    every = rows["prompt"].to_pylist()
    texts = [every[i] for i in first][:: max(1, len({labels[i] for i in first}))]
    chosen = [texts[i * len(texts) // count] for i in range(count)] if texts else [""] * count
    return [WITHHELD if about_minors(text) else text for text in chosen]
