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
from bench.core.spec import Spec
from bench.interfaces import Attack
from bench.interfaces.minors import WITHHELD, about_minors
from bench.run.contents import Content, Pictures, read, read_pictures
from bench.run.gather import Gathered
from bench.run.plan import Cell, Plan
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
        self._names = _Names(plan)
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
            if failed and cell.kind == "trial":
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
            if cell.kind == "trial":
                shown = not cell.repeat and not cell.source and self._plan.suite.keep_images
                kept = read_pictures(entry) if shown else None
                self._trials.add(content.rows, self._trial(cell))
                if kept is not None:
                    self._pictures(cell, entry, kept=kept, rows=content.rows)
            else:
                about = self._names.about(cell) | {"utility_digest": cell.digest}
                self._utility.add(content.rows, about)
            _note_errors(content.rows, cell, out)
        if content.candidates is not None and cell.digest not in self._attacks:
            self._attacks.add(cell.digest)
            self._traces += traces_of(content.candidates, cell.digest)
        if cell.kind == "edit":
            self._edits += _edit(entry, cell, self._names.about(cell))
        elif cell.kind == "attack" and cell.attack is not None and not _is_control(cell.attack):
            out.candidates.append(
                Found(
                    self._names.attack(cell.attack),
                    self._names.method(cell),
                    cell.concept.text,
                    repeat=cell.repeat,
                    entry=_lean(entry),
                )
            )
        timing: Any = entry.record["timing"]
        self._cells[cell.kind, cell.digest] = self._spent(cell, timing)
        out.seconds = (out.seconds[0] + timing["model_seconds"], out.seconds[1] + timing["seconds"])

    def _trial(self, cell: Cell) -> dict[str, Any]:
        assert cell.attack is not None  # noqa: S101 (trials have one)
        return self._names.about(cell) | {
            "source": self._names.source(cell),
            "own_threshold": self._plan.surrogate.threshold,
            "attack": self._names.attack(cell.attack),
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
            "method": self._names.method(cell),
            "source": self._names.source(cell),
            "concept": cell.concept.text,
            "repeat": cell.repeat,
            "attack": "" if cell.attack is None else self._names.attack(cell.attack),
            **{name: timing.get(name) for name in names},
            "digest": cell.digest,
        }

    def _pictures(self, cell: Cell, entry: Entry, *, kept: Pictures, rows: pa.Table) -> None:
        """Notes what the grids show of a trial: an ordinary one of the first repeat."""
        assert cell.attack is not None  # noqa: S101 (trials have one)
        prompts = np.array(_prompts(rows, len(kept.images)), dtype=object)
        attack, method = self._names.attack(cell.attack), self._names.method(cell)
        several, concept = len(cell.attack.prompt_sets) > 1, cell.concept.text
        for name in dict.fromkeys(kept.sets.tolist()):
            key, mine = (method, f"{attack}/{name}" if several else attack), kept.sets == name
            self._out.pictures.add(concept, key, entry=_lean(entry), prompt_set=name)
            self._out.scores.setdefault(concept, {})[key] = list(kept.scores[mine])
            self._out.prompts.setdefault(concept, {})[key] = list(prompts[mine])


class _Names:
    """The names that tables give the specs of a plan: thousands of cells share a few."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._labels: dict[int, str] = {}
        self._attacks: dict[int, str] = {}

    def method(self, cell: Cell) -> str:
        """As :attr:`Cell.method_label`."""
        return self._label(cell.method) + cell.suffix if cell.method else ""

    def source(self, cell: Cell) -> str:
        """As :attr:`Cell.source_label`."""
        return self._label(cell.source) + cell.suffix if cell.source else self.method(cell)

    def attack(self, attack: Attack) -> str:
        """As :meth:`Plan.attack_name`."""
        if id(attack) not in self._attacks:
            self._attacks[id(attack)] = self._plan.attack_name(attack)
        return self._attacks[id(attack)]

    def about(self, cell: Cell) -> dict[str, Any]:
        """The columns that the rows of all kinds of cells share."""
        return {
            "method": self.method(cell),
            "concept": cell.concept.text,
            "family": cell.concept.family,
            "repeat": cell.repeat,
            "edit_digest": cell.parents.get("edit", cell.digest),
        }

    def _label(self, spec: Spec) -> str:
        if id(spec) not in self._labels:
            self._labels[id(spec)] = spec.label
        return self._labels[id(spec)]


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


def _lost(plan: Plan, cell: Cell) -> Iterator[pa.Table]:
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


def _edit(entry: Entry, cell: Cell, named: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per concept that the edit erased."""
    about: Any = entry.record["cell"]
    return [
        {
            **{name: value for name, value in named.items() if name in EDITS.names},
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
