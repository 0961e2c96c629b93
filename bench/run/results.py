"""The results of a plan: the report's frames, and where the kept pictures lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.run.contents import each_picture
from bench.run.store import Entry
from bench.tables.schema import CELLS, DISTANCES, EDITS, TRIALS, UTILITY

__all__ = ["Found", "PicturesOf", "Results"]

Key = tuple[str, str]
_Kept = tuple[Entry, NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class Found:
    """The finds of an attack on a method.

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


class PicturesOf(Mapping[str, Mapping[Key, Sequence[Any]]]):
    """The kept pictures by concept, read from the store when they are asked for and not held."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[Key, _Kept]] = {}

    def add(self, concept: str, key: Key, *, entry: Entry, chosen: NDArray[np.intp]) -> None:
        """Notes where the pictures of a trial and prompt set lie, and which they are."""
        self._kept.setdefault(concept, {})[key] = (entry, chosen)

    def __getitem__(self, concept: str) -> Mapping[Key, Sequence[Any]]:
        """(method, attack) -> pictures, uint8 [H, W, 3]; each trial is read when it is asked for."""
        return _OfConcept(self._kept[concept])

    def __iter__(self) -> Iterator[str]:
        """The concepts, in the order of the plan."""
        return iter(self._kept)

    def __len__(self) -> int:
        """How many concepts have pictures."""
        return len(self._kept)


class _OfConcept(Mapping[Key, Sequence[Any]]):
    """The pictures of a concept, of which those of one trial are held: its prompt sets follow each other."""

    def __init__(self, kept: Mapping[Key, _Kept]) -> None:
        self._kept = kept
        self._last: tuple[str, _Unpacked] | None = None

    def __getitem__(self, key: Key) -> Sequence[Any]:
        entry, chosen = self._kept[key]
        if self._last is None or self._last[0] != entry.digest:
            self._last = entry.digest, _Unpacked(entry)
        return _Shown(self._last[1], chosen)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


class _Unpacked:
    """The pictures of a trial, as far as somebody has asked for them: a page shows the first few."""

    def __init__(self, entry: Entry) -> None:
        self._packed = each_picture(entry)
        self._images: list[NDArray[np.uint8]] = []

    def picture(self, place: int) -> NDArray[np.uint8]:
        """Unpacks what lies before it too."""
        self._images += islice(self._packed, max(0, place + 1 - len(self._images)))
        return self._images[place]


class _Shown(Sequence[Any]):
    """Some of the pictures of a trial."""

    def __init__(self, trial: _Unpacked, chosen: NDArray[np.intp]) -> None:
        self._trial, self._chosen = trial, chosen

    @overload
    def __getitem__(self, place: int) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self._trial.picture(int(each)) for each in self._chosen[place]]
        return self._trial.picture(int(self._chosen[place]))

    def __len__(self) -> int:
        return len(self._chosen)


@dataclass(slots=True)
class Results:
    """The results of a plan, as far as the store has them.

    Attributes:
        trials: Rows of ``TRIALS``; where a cell failed that they need, there is one row of status
            ``error`` for each image that is owed.
        utility: Rows of ``UTILITY``.
        distances: Rows of ``DISTANCES``.
        edits: Rows of ``EDITS``.
        cells: Rows of ``CELLS``, of the cells that are there.
        pictures: concept -> (method, attack) -> pictures, uint8 [H, W, 3]; read when asked for.
        scores: concept -> (method, attack) -> the scores of record of the pictures.
        prompts: The same for the prompts of the pictures; one that was withheld is not among them.
        images: The same for the digest of the trial, the candidate and the draw of the pictures.
        candidates: What the attacks found that are no controls.
        curves: A row per search and look, with the columns :data:`bench.tables.budget.CURVES`.
        missing: Titles of cells that are neither there nor failed: the run is not finished.
        failed: Titles of cells that failed.
        blocked: Titles of cells that were not tried, since one that they need has failed.
        errors: Of cells that are there, a line per reason why rows have the status ``error``.
        seconds: Time spent computing the cells, inside models and in all.
        origins: What computed the cells: see :meth:`bench.run.provenance.Origins.as_json`.
    """

    trials: pd.DataFrame = field(default_factory=TRIALS.empty)
    utility: pd.DataFrame = field(default_factory=UTILITY.empty)
    distances: pd.DataFrame = field(default_factory=DISTANCES.empty)
    edits: pd.DataFrame = field(default_factory=EDITS.empty)
    cells: pd.DataFrame = field(default_factory=CELLS.empty)
    pictures: PicturesOf = field(default_factory=PicturesOf)
    scores: dict[str, dict[Key, list[float]]] = field(default_factory=dict)
    prompts: dict[str, dict[Key, list[str]]] = field(default_factory=dict)
    images: dict[str, dict[Key, list[tuple[str, int, int]]]] = field(default_factory=dict)
    candidates: list[Found] = field(default_factory=list)
    curves: list[dict[str, object]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)
    origins: list[dict[str, Any]] = field(default_factory=list)
