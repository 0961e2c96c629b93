"""Reads a plan's results from the store: each cell once, whatever is damaged set aside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bench.config.suite import CONTROLS
from bench.core.digest import DamagedError
from bench.interfaces import Attack
from bench.interfaces.minors import WITHHELD, about_minors
from bench.run.cells import (
    AttackCell,
    Cell,
    ComparedCell,
    EditCell,
    JudgedCell,
    MeasuredCell,
    OfAttack,
    ReferenceCell,
    ScoreCell,
    TrialCell,
    UtilityCell,
)
from bench.run.contents import Content, read, read_pictures
from bench.run.distances import distance_rows
from bench.run.gather import Gathered
from bench.run.joined import Scored, failed, lost, with_prompts
from bench.run.plan import Plan
from bench.run.provenance import Origins
from bench.run.results import Found, Results
from bench.run.store import Entry, Store
from bench.run.traces import SEARCH, TRACE, curve_of, traces_of, with_traces
from bench.tables.schema import CELLS, DISTANCES, EDITS, TRIALS, UTILITY, conform

__all__ = ["collect"]


def collect(plan: Plan, store: Store) -> Results:
    """Reads every cell of the plan, each once; nothing is computed.

    What is damaged is set aside and counts as missing; the rest is read. Thresholds, and which
    labels count, are those of the plan: the store knows raw scores alone.
    """
    reading = _Reading(plan, store)
    for cell in plan.cells:
        reading.read(cell)
    return reading.results()


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """The part of a cell that sampled which its scores need."""

    digest: str
    entry: Entry
    rows: pa.Table
    places: NDArray[np.int32] | None = None


class _Reading:
    """The results as far as they are read."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store
        self._out = Results()
        self._names: dict[int, str] = {}
        self._trials = Gathered(TRIALS, "score", elsewhere=TRACE)
        self._utility = Gathered(UTILITY, "value")
        self._traces: list[tuple[Any, ...]] = []
        self._edits: list[dict[str, Any]] = []
        self._distances: list[dict[str, Any]] = []
        self._cells: dict[tuple[str, str], dict[str, Any]] = {}
        self._attacks: set[str] = set()
        self._origins = Origins()
        self._lost: dict[str, str] = {}  # the kind of what failed, by the digest of what it costs
        self._sample: _Sample | None = None  # its scores come next

    def read(self, cell: Cell) -> None:
        """Takes a cell in, or notes that it is missing, failed or blocked."""
        entry = self._store.read(cell.kind, cell.digest)
        if entry is not None:
            try:
                self._take(cell, entry, read(entry))
            except DamagedError as error:
                self._store.reject(entry, str(error))
                entry = None
        if entry is None:
            self._absent(cell)

    def results(self) -> Results:
        """Returns what was read, once all of it is."""
        out = self._out
        traces = pd.DataFrame(self._traces, columns=[*SEARCH, *TRACE])
        out.trials = conform(with_traces(self._trials.rows(), traces)[TRIALS.names], TRIALS)
        out.utility = self._utility.frame()
        out.distances = conform(pd.DataFrame(self._distances, columns=DISTANCES.names), DISTANCES)
        out.edits = conform(pd.DataFrame(self._edits, columns=EDITS.names), EDITS)
        out.cells = conform(pd.DataFrame(list(self._cells.values()), columns=CELLS.names), CELLS)
        out.missing.sort()
        out.origins = self._origins.as_json()
        return out

    def _absent(self, cell: Cell) -> None:
        out = self._out
        causes = [self._lost[parent] for parent in cell.parents.values() if parent in self._lost]
        if self._store.failures(cell.kind, cell.digest):
            self._lost[cell.digest] = cell.kind
            out.failed.append(cell.title)
        elif causes:
            self._lost[cell.digest] = causes[0]
            out.blocked.append(cell.title)
        else:
            out.missing.append(cell.title)
        if isinstance(cell, JudgedCell) and (cause := self._lost.get(cell.digest)):
            sampled = self._of_sample(cell)
            rows = (
                lost(cell, f"the {cause} failed")
                if sampled is None
                else failed(cell, sampled.rows, f"the {cause} failed")
            )
            self._trials.add(rows, self._trial(cell))

    def _take(self, cell: Cell, entry: Entry, content: Content) -> None:
        out = self._out
        if isinstance(cell, ScoreCell):
            self._take_score(cell, content)
        elif content.rows is not None:
            shown = isinstance(cell, TrialCell) and self._is_shown(cell)
            places = _places(entry, len(content.rows)) if shown else None
            rows = content.rows
            if isinstance(cell, ReferenceCell | UtilityCell):
                rows = with_prompts(cell, rows)
            self._sample = _Sample(cell.digest, entry, rows, places)
            _note_errors(content.rows, cell, out)
        if content.candidates is not None and cell.digest not in self._attacks:
            self._attacks.add(cell.digest)
            self._traces += traces_of(content.candidates, cell.digest)
            if isinstance(cell, AttackCell):
                about = {
                    "cell": cell.digest,
                    "method": cell.method_label,
                    "attack": self._name(cell.attack),
                }
                out.curves += curve_of(content.candidates, about, self._plan.surrogate.threshold)
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
        self._origins.add(entry.record)
        timing: Any = entry.record["timing"]
        self._cells[cell.kind, cell.digest] = self._spent(cell, entry.record)
        out.seconds = (out.seconds[0] + timing["model_seconds"], out.seconds[1] + timing["seconds"])

    def _take_score(self, cell: ScoreCell, content: Content) -> None:
        if isinstance(cell, ComparedCell) and content.rows is not None:
            found = distance_rows(cell, content.rows)
            self._distances += [cell.said | row for row in found]
            _note_errors(content.rows, cell, self._out)
            return
        sampled = self._of_sample(cell)
        if sampled is None or content.rows is None:  # without its images it says nothing
            return
        if isinstance(cell, JudgedCell):
            counting = frozenset(cell.judge.counts(cell.concept))
            rows = Scored(sampled.rows, content.rows, counting)
            self._trials.add(rows, self._trial(cell))
            if sampled.places is not None and cell.judge is self._plan.judges[0]:
                self._pictures(cell.trial, sampled, sampled.places, rows)
        elif isinstance(cell, MeasuredCell):
            about = {
                "metric": cell.by,
                "threshold": cell.metric.threshold(self._plan.judges[0]),
                "utility_digest": cell.utility.digest,
                "edit_digest": cell.utility.parents["edit"],
            }
            self._utility.add(Scored(sampled.rows, content.rows), cell.said | about)
        _note_errors(content.rows, cell, self._out)  # its own: the images' were noted once

    def _of_sample(self, cell: ScoreCell) -> _Sample | None:
        """The cell whose images a score is of, which has just been read; ``None`` if it is not there."""
        known = self._sample is not None and self._sample.digest == cell.parents["sample"]
        return self._sample if known else None

    def _is_shown(self, cell: TrialCell) -> bool:
        """Whether grids show its pictures: an ordinary trial of the first repeat."""
        return not cell.repeat and not cell.source and self._plan.suite.keep_images > 0

    def _name(self, attack: Attack) -> str:
        """As :meth:`Plan.attack_name`: thousands of cells share a few."""
        if id(attack) not in self._names:
            self._names[id(attack)] = self._plan.attack_name(attack)
        return self._names[id(attack)]

    def _trial(self, cell: JudgedCell) -> dict[str, Any]:
        trial = cell.trial
        return cell.said | {
            "edit_digest": trial.parents["edit"],
            "source": cell.source_label,
            "own_threshold": self._plan.surrogate.threshold,
            "attack": self._name(trial.attack),
            "access": trial.attack.holds.name.lower(),
            "control": trial.attack.control,
            "gradients": trial.attack.gradients,
            "judge": cell.by,
            "threshold": cell.judge.threshold,
            "attack_digest": trial.parents["attack"],
            "trial_digest": trial.digest,
        }

    def _spent(self, cell: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
        names = ("seconds", "model_seconds", "micro_batch", "peak_memory_mb")
        reused = record["cell"].get("reused_seconds") if isinstance(cell, AttackCell) else None
        of = cell.trial if isinstance(cell, JudgedCell) else cell
        return {
            "kind": cell.kind,
            "method": cell.method_label,
            "source": cell.source_label,
            "concept": cell.concept.text,
            "repeat": cell.repeat,
            "attack": self._name(of.attack) if isinstance(of, OfAttack) else "",
            "scored_by": cell.by if isinstance(cell, ScoreCell) else "",
            **{name: record["timing"].get(name) for name in names},
            "reused_seconds": reused,
            "digest": cell.digest,
        }

    def _pictures(
        self, trial: TrialCell, sampled: _Sample, places: NDArray[np.int32], rows: Scored
    ) -> None:
        """Notes what the grids show of a trial."""
        images = sampled.rows
        sets = np.array(images["prompt_set"].to_pylist(), dtype=object)[places]
        every = images["prompt"].to_pylist()
        prompts = np.array([_said(every[place]) for place in places], dtype=object)
        scores = rows.best()[places]
        candidates, draws = images["candidate"].to_numpy(), images["draw"].to_numpy()
        found = [(trial.digest, int(candidates[i]), int(draws[i])) for i in places]
        attack, method = self._name(trial.attack), trial.method_label
        several, concept = len(trial.attack.prompt_sets) > 1, trial.concept.text
        for name in dict.fromkeys(sets.tolist()):
            key, mine = (method, f"{attack}/{name}" if several else attack), sets == name
            entry = _lean(sampled.entry)
            self._out.pictures.add(concept, key, entry=entry, chosen=np.flatnonzero(mine))
            self._out.scores.setdefault(concept, {})[key] = list(scores[mine])
            self._out.prompts.setdefault(concept, {})[key] = list(prompts[mine])
            self._out.images.setdefault(concept, {})[key] = [found[i] for i in np.flatnonzero(mine)]


def _lean(entry: Entry) -> Entry:
    """The entry without its record and bytes, which a report of thousands of cells need not hold."""
    return replace(entry, record={}, data={})


def _note_errors(rows: pa.Table, cell: Cell, out: Results) -> None:
    if "error" not in rows["status"].to_pylist():  # quicker than a filter, and nearly always so
        return
    lost = rows.filter(pc.equal(rows["status"], "error"))["reason"].value_counts().to_pylist()
    for reason, n in sorted((str(one["values"]), one["counts"]) for one in lost):
        out.errors.append(f"{cell.title}: {n} of {len(rows)} rows: {reason}")


def _is_control(attack: Attack) -> bool:
    """Whether what it tries is luck, or the same for every method."""
    return attack.control or attack.name in CONTROLS["attacks"]


def _edit(entry: Entry, cell: EditCell) -> list[dict[str, Any]]:
    """A row per concept that the edit erased."""
    about: Any = entry.record["cell"]
    return [
        {
            **{name: value for name, value in cell.said.items() if name in EDITS.names},
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
            "edit_digest": cell.digest,
        }
        for concept in cell.erased
    ]


def _places(entry: Entry, images: int) -> NDArray[np.int32]:
    """Which of its images a trial keeps thumbnails of."""
    places = read_pictures(entry).places
    if len(places) and not 0 <= places.min() <= places.max() < images:
        raise DamagedError("pictures.npz: expected places of images that there are")
    return places


def _said(prompt: str) -> str:
    return WITHHELD if about_minors(prompt) else prompt
