"""The text states and noise of candidates, by attack and candidate: as published, or from the store of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from bench.interfaces import Access
from bench.interfaces.minors import about_minors
from bench.leaderboard.found import is_published
from bench.leaderboard.published_run import PublishedRun
from bench.run.cells import TrialCell
from bench.run.store import Entry, Store

if TYPE_CHECKING:
    from torch import Tensor

    from bench.interfaces import Candidate

__all__ = ["Tensors"]

_KINDS: Final = ("states", "latents")


class Tensors:
    """Text states and noise, by attack and candidate.

    Args:
        run: What was published.
        store: Of the run itself, where tensors may lie that were not: a search made again may find others.
    """

    def __init__(self, run: PublishedRun, store: Store | None = None) -> None:
        self._store = store
        self._entries: dict[str, Entry | None] = {}
        self._last: tuple[str, list[Candidate]] = ("", [])
        self._lines: dict[str, list[Mapping[str, Any]]] = {}
        for line in run.candidates:
            self._lines.setdefault(str(line["attack_digest"]), []).append(line)
        self._path = run.folder / "candidates.safetensors"
        self._held: dict[str, Tensor] | None = None
        self._places: dict[str, dict[int, int]] = {}

    def numbered(self, trial: TrialCell, rows: pd.DataFrame) -> list[int]:
        """The candidates of a trial that are published, in order: withheld ones are not."""
        numbers = sorted(set(rows.loc[~rows["prompt"].map(about_minors), "candidate"].tolist()))
        self._places[trial.digest] = {number: place for place, number in enumerate(numbers)}
        return numbers

    def lacks(self, trial: TrialCell) -> str:
        """Why the candidates of a trial cannot be sampled again; empty if they can."""
        holds = trial.attack.holds
        if holds is Access.PROMPT or self._whole(trial):
            return ""
        if holds is not Access.WEIGHTS and self._entry(trial) is not None:
            return ""
        if is_published(trial.attack):
            return "its tensors are not published"
        return "a control's noise, or a change of weights, is not published"

    def of(self, trial: TrialCell, number: int) -> tuple[Tensor | None, Tensor | None]:
        """Text states and noise of a candidate."""
        if trial.attack.holds is Access.PROMPT and not is_published(trial.attack):
            return None, None
        if not self._whole(trial):
            found = self._stored(trial)[number]
            return found.states_LD, found.latents_Chw
        line = self._lines[trial.parents["attack"]][self._places[trial.digest][number]]
        states, latents = (line[kind] for kind in _KINDS)
        held = self._all()
        return (
            held[states].float() if states else None,
            held[latents].float() if latents else None,
        )

    def start(self, trial: TrialCell, number: int) -> int:
        """How many of the sampler's steps a candidate's noise has behind it."""
        if trial.attack.holds is Access.PROMPT and not is_published(trial.attack):
            return 0
        if not self._whole(trial):
            return self._stored(trial)[number].start
        line = self._lines[trial.parents["attack"]][self._places[trial.digest][number]]
        return int(line.get("start", 0))

    def _whole(self, trial: TrialCell) -> bool:
        """Whether all that an attack found was published."""
        lines = self._lines.get(trial.parents["attack"], [])
        names = [line[kind] for line in lines for kind in _KINDS if line[kind]]
        return is_published(trial.attack) and all(name in self._all() for name in names)

    def _entry(self, trial: TrialCell) -> Entry | None:
        """The entry of an attack, where the store has it. The store is asked once: a look checks every file."""
        if self._store is None:
            return None
        digest = trial.parents["attack"]
        if digest not in self._entries:
            self._entries[digest] = self._store.find("attack", digest)
        return self._entries[digest]

    def _stored(self, trial: TrialCell) -> list[Candidate]:
        """The candidates of an attack, from the store; those of the last one are held."""
        digest = trial.parents["attack"]
        if self._last[0] != digest:
            from bench.run.stages.attack import read_candidates

            if (entry := self._entry(trial)) is None:
                raise RuntimeError(f"expected what {trial.title} tries in the store, got none")
            self._last = digest, read_candidates(entry)
        return self._last[1]

    def _all(self) -> dict[str, Tensor]:
        if self._held is None:
            from safetensors.torch import load_file

            self._held = load_file(self._path) if self._path.is_file() else {}
        return self._held
