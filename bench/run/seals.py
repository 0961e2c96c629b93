"""The plug-ins as a plan found them: what others would say is refused, and not stored under the plan's names.

A plan hashes the files of judges, metrics and methods, and a run reads them again, hours later. In between
somebody may train them again, or put another network at the path.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.core.digest import digest_of
from bench.core.errors import UsageError
from bench.core.spec import Spec, content
from bench.interfaces import Erasure, Judge, SetMetric
from bench.run.cells import (
    AttackCell,
    Cell,
    ComparedCell,
    EditCell,
    JudgedCell,
    MeasuredCell,
    TrialCell,
    UtilityCell,
)

__all__ = ["Seals"]


@dataclass(frozen=True, slots=True)
class _Seal:
    """The identity of a plug-in at one time.

    Attributes:
        spec: The plug-in.
        digest: Of its identity, and of what its method reads in the base's folder.
        sums: The files in it, each with its content.
    """

    spec: Spec
    digest: str
    sums: frozenset[tuple[Path, str]]


@dataclass(frozen=True, slots=True)
class Seals:
    """The identities that a plan hashed.

    Attributes:
        seals: One for each plug-in.
        surrogate: The judge that attacks see through.
        folder: The base's pipeline folder; ``None`` for one that was not loaded from any.
    """

    seals: tuple[_Seal, ...]
    surrogate: Judge
    folder: Path | None

    @classmethod
    def of(cls, specs: Iterable[Spec], surrogate: Judge, folder: Path | None) -> Seals:
        """The seals of plug-ins and of the surrogate as they are now."""
        return cls(tuple(_seal(s, folder) for s in (*specs, surrogate)), surrogate, folder)

    def check(self, cell: Cell) -> None:
        """Refuses a cell that reads files which are not those of the plan.

        Raises:
            UsageError: in one line, with the plug-in and the file.
        """
        for spec in _read_by(cell, self.surrogate):
            self.check_one(spec)

    def check_one(self, spec: Spec) -> None:
        """Refuses a plug-in that is not what it was; see :meth:`check`."""
        before = next(seal for seal in self.seals if seal.spec is spec)
        now = _seal(spec, self.folder)
        if now.digest == before.digest:
            return
        apart = sorted(path for path, _ in before.sums ^ now.sums)
        raise UsageError(
            f"{spec.label}: expected {apart[0] if apart else 'its files'} as the plan read it, got another "
            "content; run again, which makes a new plan"
        )


def _seal(spec: Spec, folder: Path | None) -> _Seal:
    paths = (*spec.files(), *(spec.features().files() if isinstance(spec, SetMetric) else ()))
    beside = spec.base_files(folder) if isinstance(spec, Erasure) else ()
    sums = frozenset((path, content(path)) for path in (*paths, *beside))
    about = {"identity": spec.identity(), "base_files": [content(path) for path in beside]}
    return _Seal(spec, digest_of(about), sums)


def _read_by(cell: Cell, surrogate: Judge) -> tuple[Spec, ...]:
    """The plug-ins whose files a cell reads; what its parents read is checked with them."""
    match cell:
        case EditCell():
            return (cell.method,)
        case AttackCell():
            return (*_still_read(cell.method), cell.attack, surrogate)
        case TrialCell() | UtilityCell():
            return _still_read(cell.method)
        case JudgedCell():
            return (cell.judge,)
        case MeasuredCell():
            return (cell.metric,) if cell.judge is None else (cell.metric, cell.judge)
        case ComparedCell():
            return (cell.metric,)
    return ()


def _still_read(method: Erasure) -> tuple[Spec, ...]:
    """A method whose edits read its files whenever they draw, as a filter does; weights are in the store."""
    return (method,) if method.slots - {"weights"} else ()
