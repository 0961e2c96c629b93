"""Rehearses a suite: the same plan, run and report as the whole, with stand-ins and at the smallest budgets."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from bench.config.concepts import erased_concepts, known_concepts
from bench.config.other_base import on_base
from bench.config.refusals import check_base
from bench.config.suite import Code, Suite, read_suite
from bench.config.suite_file import SuiteFile
from bench.core.errors import UsageError, in_one_line
from bench.core.shipped import MINIATURES
from bench.model.families.family import Dtype
from bench.model.families.known import family_in
from bench.model.pipeline.inspect import BaseFiles, inspect_base, local_folder
from bench.publish import Asked, publish
from bench.rehearse.bases import family_like, family_of, write_base, write_words
from bench.rehearse.cut import LIMIT, cut
from bench.rehearse.hours import counted, measured
from bench.rehearse.stand_ins import StandIns
from bench.run.cells import Cell, OfAttack, OfMethod, ReferenceCell, ScoreCell
from bench.run.estimate import Estimate
from bench.run.executor import Inline
from bench.run.loading import NOTHING_SAID, Runtime, load_base
from bench.run.plan import Plan, make_plan
from bench.run.store import Store
from bench.run.watching import Outcome, Watcher

__all__ = ["CANNOT_DRAW", "Case", "Fate", "Rehearsal", "rehearse"]

CANNOT_DRAW: Final = "the base cannot draw"
"""What a method says that looks at the base's own images first: random weights draw nothing."""
_CONCEPTS: Final = "concepts.json"
_BASE, _NETWORKS, _STORE, _REPORT = "base", "networks", "store", "report"
Fate = Literal["passed", "failed", "blocked", "not with random weights"]


@dataclass(slots=True)
class Case:
    """One thing that is tried: a kind of cell, of a plug-in.

    Attributes:
        stage: ``edit``, ``attack``, ``trial``, ``utility``, ``reference`` or ``score``; or ``report``.
        of: The plug-in, as the whole suite calls it.
        fate: The worst of its cells'.
        cells: How many were tried or blocked.
        seconds: That they took together.
        peak_mb: The largest peak of memory of one, in MiB; on a GPU of the GPU's.
    """

    stage: str
    of: str
    fate: Fate = "passed"
    cells: int = 0
    seconds: float = 0.0
    peak_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The outcome of a rehearsal.

    Attributes:
        suite: The name of the suite.
        cases: What was tried, in the plan's order.
        failures: A line per failure.
        notes: What a reader should know that is no failure.
        whole: How many cells the whole suite has.
        hours: Of the whole suite on this machine; ``None`` where the base was tiny: its times say nothing.
        seconds: That the cells took.
    """

    suite: str
    cases: tuple[Case, ...]
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    whole: int
    hours: Estimate | None
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


@dataclass(slots=True)
class _Ledger(Watcher):
    """Keeps what becomes of each cell."""

    plan: Plan
    stands_for: Mapping[str, Sequence[str]]
    tell: Watcher
    cases: dict[tuple[str, str], Case] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def begin(self, todo: int, total: int) -> None:
        self.tell.begin(todo, total)

    def cell(self, cell: Cell, number: int) -> None:
        self.tell.cell(cell, number)

    def step(self, done: int, total: int, what: str) -> None:
        self.tell.step(done, total, what)

    def done(self, cell: Cell, seconds: float) -> None:
        case = self._case(cell)
        case.seconds += seconds
        self.tell.done(cell, seconds)

    def failed(self, cell: Cell, error: BaseException) -> None:
        case, said = self._case(cell), in_one_line(error)
        if CANNOT_DRAW in said:
            case.fate = "not with random weights" if case.fate == "passed" else case.fate
            self.notes.append(f"{case.stage} {case.of}: {said}; so it goes with random weights")
        else:
            case.fate = "failed"
            self.failures.append(f"{cell.title}: {type(error).__name__}: {said}")
        self.tell.failed(cell, error)

    def blocked(self, cell: Cell) -> None:
        case = self._case(cell)
        case.fate = "blocked" if case.fate == "passed" else case.fate
        self.tell.blocked(cell)

    def _case(self, cell: Cell) -> Case:
        stage, of = cell.kind, _part(cell, self.stands_for)
        case = self.cases.setdefault((stage, of), Case(stage, of))
        case.cells += 1
        return case


def rehearse(
    source: str,
    folder: Path,
    *,
    real_size: bool = False,
    only: Sequence[str] = (),
    runtime: Runtime = NOTHING_SAID,
    dtype: Dtype | None = None,
    code: Code = "installed",
    base: str | None = None,
    watcher: Watcher | None = None,
) -> Rehearsal:
    """Runs every kind of cell of a suite, with random weights for what is not here.

    The miniature is here, so a suite on it is rehearsed on it.

    Args:
        source: A shipped suite or a YAML file.
        folder: An empty folder; everything is written there, and nothing elsewhere.
        real_size: Networks are as wide and deep as the real ones, and so images are.
        only: Glob patterns, as of a run.
        runtime: How the networks are computed.
        dtype: In place of the suite's precision: many a CPU only mimics bfloat16, and takes several times as long.
        code: Whose code the suite may run.
        base: One in place of the suite's own, see :func:`bench.config.other_base.on_base`.
        watcher: Told of progress.

    Raises:
        UsageError: the suite is wrong, or lacks what no stand-in can be made for, as prompts.
    """
    file = read_suite(source, code=code)
    file = file if base is None else on_base(file, base)
    check_base(file)
    kept = file.base in MINIATURES
    files, changes, absent = _staged(file, folder, real_size=real_size)
    changes |= {} if dtype is None else {"dtype": dtype}
    whole = Suite.of(SuiteFile.of({**file.model_dump(), **changes, "protocol": None}))
    full = make_plan(whole, files.digest, folder=files.folder, only=only)
    small = cut(whole, only=only, tiny=not real_size and not kept)
    left = Suite.of(small.file)
    plan = make_plan(left, files.digest, folder=files.folder, only=small.only, limit=LIMIT)
    store = Store(folder / _STORE)
    ledger = _Ledger(plan, small.stands_for, watcher or Watcher())
    ledger.notes += [f"{source} is not here; a stand-in took its place" for source in absent]
    model = load_base(files, whole.dtype, runtime)
    outcome = Inline(model).run(plan, store, ledger)
    _measure(plan, store, ledger)
    _report(plan, store, source, folder, ledger, outcome)
    timed = real_size or kept
    return Rehearsal(
        suite=file.name,
        cases=tuple(ledger.cases.values()),
        failures=tuple(ledger.failures),
        notes=tuple(dict.fromkeys(ledger.notes)),
        whole=len(full.cells),
        hours=counted(full, measured(model, whole.sampler)) if timed else None,
        seconds=outcome.seconds,
    )


def _staged(
    file: SuiteFile, folder: Path, *, real_size: bool
) -> tuple[BaseFiles, dict[str, Any], list[str]]:
    """The stand-ins on the disk: the base's files, the keys of the suite that name them, and what they replace."""
    words = write_words(folder / _NETWORKS / "words", _lines(file))
    here = local_folder(file.base)
    if file.base in MINIATURES:
        base = inspect_base(file.base)
        stand_ins = StandIns(folder / _NETWORKS, words, real_size, base.folder, tiny=False)
        changes = stand_ins.in_place(file)
        return base, changes, list(stand_ins.replaced)
    named, prediction = family_of(file.base), ""
    if here is not None and family_in(here) is not None:
        found = inspect_base(file.base)
        named, prediction = family_like(found), found.prediction_type
    place = write_base(folder / _BASE, named, words, real_size=real_size, prediction=prediction)
    stand_ins = StandIns(folder / _NETWORKS, words, real_size, place, tiny=not real_size)
    changes = stand_ins.in_place(file)
    if file.concepts_file is None and here is not None and (here / _CONCEPTS).is_file():
        changes["concepts_file"] = str(here / _CONCEPTS)
    changes |= {"base": str(place), "revision": None}
    return inspect_base(str(place)), changes, list(stand_ins.replaced)


def _lines(file: SuiteFile) -> list[str]:
    """The prompts of a suite's concepts, as far as its file holds them: the words of its tokenizer."""
    known = known_concepts(file)
    concepts = {c.text: c for c in (*known.values(), *erased_concepts(file, known))}
    said = [text for c in concepts.values() for texts in c.prompts.values() for text in texts]
    said += [prompt.text for c in concepts.values() for prompt in c.utility]
    return sorted({*said, *concepts})


def _part(cell: Cell, stands_for: Mapping[str, Sequence[str]]) -> str:
    """The plug-in that a cell is known by, as the whole suite calls it."""

    def called(label: str) -> str:
        return ", ".join(stands_for.get(label, (label,)))

    match cell:
        case ReferenceCell():
            return "unedited"
        case ScoreCell():
            return cell.by
        case OfAttack():
            return called(cell.attack_label)
        case OfMethod():
            return called(cell.method.label)
    return cell.title


def _measure(plan: Plan, store: Store, ledger: _Ledger) -> None:
    """Adds the peaks of memory that the store recorded."""
    for cell in plan.cells:
        entry = store.find(cell.kind, cell.digest)
        case = ledger.cases.get((cell.kind, _part(cell, ledger.stands_for)))
        if entry is not None and case is not None:
            timing: Any = entry.record.get("timing") or {}
            case.peak_mb = max(case.peak_mb, float(timing.get("peak_memory_mb") or 0.0))


def _report(
    plan: Plan, store: Store, source: str, folder: Path, ledger: _Ledger, outcome: Outcome
) -> None:
    """Writes the report, which is a case of its own; what it says of random weights fails nothing."""
    case = ledger.cases.setdefault((_REPORT, ""), Case(_REPORT, "tables, plots and pages", cells=1))
    asked = Asked(source, limit=LIMIT, said=shlex.join(["tvc-bench", "rehearse", source]))
    try:
        done = publish(plan, store, asked, folder=folder / _REPORT, outcome=outcome)
    except UsageError:
        raise
    except (
        Exception
    ) as error:  # whatever the libraries of tables and plots raise is what is looked for
        case.fate = "failed"
        ledger.failures.append(f"report: {type(error).__name__}: {in_one_line(error)}")
        return
    ledger.notes += [
        f"report: {line}; with random weights that may be" for line in done.found.errors
    ]
