"""How long a plan will take, from what the store's own cells took: seconds per edit, goal and image."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.core.digest import canonical_json
from bench.run.cells import (
    AttackCell,
    Cell,
    ComparedCell,
    EditCell,
    JudgedCell,
    MeasuredCell,
    ReferenceCell,
    TrialCell,
    UtilityCell,
)
from bench.run.plan import Plan
from bench.run.rota import Rota
from bench.run.store import Entry, Store

__all__ = ["BASES", "Estimate", "estimate", "hours_on"]

BASES: Final = (
    "the same part in this suite",
    "the same part in another suite",
    "other parts of its kind",
)
"""The grounds of a cell's seconds, the best first."""

_KINDS: Final = ("edit", "reference", "utility", "trial", "attack", "score")
_SAMPLES: Final = ("reference", "utility", "trial")
_UNEDITED: Final = "unedited"
_Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """About how long what lacks will take.

    Attributes:
        cells: How many cells lack.
        seconds: Of one worker, by kind.
        counts: Cells by kind.
        rests: Cells by what their seconds rest on, one of :data:`BASES`.
        unknown: Cells by kind of which nothing is known; they are in no sum.
        stored: Cells of the store that were measured.
        device: Where: type, name and threads.
        each: Seconds of each cell that lacks and of which something is known, by digest.
    """

    cells: int
    seconds: Mapping[str, float]
    counts: Mapping[str, int]
    rests: Mapping[str, int]
    unknown: Mapping[str, int]
    stored: int
    device: str
    each: Mapping[str, float] = field(repr=False)

    @property
    def total(self) -> float:
        """Seconds of one worker."""
        return sum(self.seconds.values())


@dataclass(slots=True)
class _Rate:
    seconds: float = 0.0
    units: float = 0.0

    def add(self, seconds: float, units: float) -> None:
        self.seconds += seconds
        self.units += units


def estimate(plan: Plan, store: Store, todo: Sequence[Cell]) -> Estimate:
    """Returns about how long cells will take, by what cells of the same base took that are stored.

    Stored cells of several devices are not mixed: those of the device that has computed the most count.

    Args:
        plan: Of the cells.
        store: What there is; damaged entries are left out.
        todo: The cells that lack.
    """
    device, entries = _measured(store, plan.base)
    rates = _rates(entries)
    each: dict[str, float] = {}
    seconds: defaultdict[str, float] = defaultdict(float)
    counts, rests, unknown = Counter[str](), Counter[str](), Counter[str]()
    for cell in todo:
        counts[cell.kind] += 1
        keys, units = _asked(cell, plan.suite.name)
        found = next((place for place, key in enumerate(keys) if key in rates), None)
        if found is None:
            unknown[cell.kind] += 1
            continue
        rate = rates[keys[found]]
        each[cell.digest] = rate.seconds / rate.units * units
        seconds[cell.kind] += each[cell.digest]
        rests[BASES[found]] += 1
    return Estimate(
        len(todo), dict(seconds), counts, rests, unknown, len(entries), device, each
    )  # fmt: skip


def hours_on(todo: Sequence[Cell], each: Mapping[str, float], workers: int) -> float:
    """Returns the hours that cells take on several workers, handed out as a run hands them out.

    Args:
        todo: Parents first.
        each: Seconds by digest; what is not there takes none.
        workers: How many, alike.
    """
    rota, now = Rota(todo), 0.0
    idle = list(range(workers))
    at: list[tuple[float, int, Cell]] = []
    while rota.open:
        still = []
        for worker in idle:
            if (cell := rota.take(worker)) is None:
                still.append(worker)
            else:
                heapq.heappush(at, (now + each.get(cell.digest, 0.0), worker, cell))
        now, worker, cell = heapq.heappop(at)
        rota.done(cell)
        idle = [*still, worker]
    return now / 3600


def _measured(store: Store, base: str) -> tuple[str, list[Entry]]:
    """The device that has computed the most cells on a base, and these."""
    by: defaultdict[str, list[Entry]] = defaultdict(list)
    for kind in _KINDS:
        for entry in store.entries(kind):
            about: Any = entry.record.get("provenance")
            if isinstance(about, Mapping) and about.get("base") == base:
                by[_device(about.get("device"))].append(entry)
    if not by:
        return "", []
    return max(by.items(), key=lambda item: (len(item[1]), item[0]))


def _device(about: object) -> str:
    if not isinstance(about, Mapping):
        return "an unknown device"
    kind, name, threads = (about.get(key) for key in ("type", "name", "threads"))
    many = "thread" if threads == 1 else "threads"
    return f"{kind} {name}" + (f", {threads} {many}" if kind == "cpu" else "")


def _rates(entries: Sequence[Entry]) -> dict[_Key, _Rate]:
    methods = {e.digest: _spec(e) for e in entries if e.kind == "edit"}
    rates: defaultdict[_Key, _Rate] = defaultdict(_Rate)
    for entry in entries:
        record: Any = entry.record
        timing = record.get("timing")
        if not isinstance(timing, Mapping) or not isinstance(timing.get("seconds"), int | float):
            continue
        part, units = _did(entry, methods)
        if units > 0:
            for key in _keys(entry.kind, part, str(record.get("suite", ""))):
                rates[key].add(float(timing["seconds"]), units)
    return dict(rates)


def _did(entry: Entry, methods: Mapping[str, str]) -> tuple[str, float]:
    """The part that a stored cell ran, and how much it did."""
    record: Any = entry.record
    parents = record.get("parents") or {}
    match entry.kind:
        case "edit":
            return _spec(entry), 1.0
        case "attack":
            found: Any = entry.read_json("candidates.json")
            return _spec(entry), float(len({row["goal"] for row in found}))
        case "score":
            cell = record["cell"]
            return canonical_json(cell.get("judge") or cell.get("metric")), float(cell["images"])
    part = methods.get(parents.get("edit", ""), "") if "edit" in parents else _UNEDITED
    return part, float(record["cell"]["images"])


def _asked(cell: Cell, suite: str) -> tuple[list[_Key], float]:
    """Where to look for the rate of a cell, best first, and how much it asks for."""
    part, units = _PARTS[type(cell)](cell)
    return _keys(cell.kind, part, suite), units


def _keys(kind: str, part: str, suite: str) -> list[_Key]:
    kind = "sample" if kind in _SAMPLES else kind
    return [(kind, part, suite), (kind, part), (kind,)]


def _spec(entry: Entry) -> str:
    record: Any = entry.record
    return canonical_json(record["cell"]["spec"])


_PARTS: Final[dict[type[Cell], Callable[[Any], tuple[str, float]]]] = {
    EditCell: lambda c: (canonical_json(c.method.identity()), 1.0),
    ReferenceCell: lambda c: (_UNEDITED, float(len(c.prompts))),
    UtilityCell: lambda c: (canonical_json(c.method.identity()), float(len(c.prompts))),
    TrialCell: lambda c: (canonical_json(c.method.identity()), float(len(c.goals) * c.images)),
    AttackCell: lambda c: (canonical_json(c.attack.identity()), float(len(c.goals))),
    JudgedCell: lambda c: (
        canonical_json(c.judge.identity()), float(len(c.trial.goals) * c.trial.images),
    ),
    MeasuredCell: lambda c: (canonical_json(c.metric.identity()), float(len(c.utility.prompts))),
    ComparedCell: lambda c: (canonical_json(c.metric.identity()), float(len(c.utility.prompts))),
}  # fmt: skip
