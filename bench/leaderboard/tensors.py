"""The published text states and noise of candidates, by attack and candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from bench.interfaces.minors import about_minors
from bench.leaderboard.found import is_published
from bench.leaderboard.published_run import PublishedRun
from bench.run.cells import TrialCell

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Tensors"]

_KINDS: Final = ("states", "latents")


class Tensors:
    """The published text states and noise, by attack and candidate."""

    def __init__(self, run: PublishedRun) -> None:
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
        if trial.attack.holds.name == "PROMPT":
            return ""
        if not is_published(trial.attack):
            return "a control's noise, or a change of weights, is not published"
        lines = self._lines.get(trial.parents["attack"], [])
        names = [line[kind] for line in lines for kind in _KINDS if line[kind]]
        return "" if all(name in self._all() for name in names) else "its tensors are not published"

    def of(self, trial: TrialCell, number: int) -> tuple[Tensor | None, Tensor | None]:
        """Text states and noise of a candidate."""
        if not is_published(trial.attack):
            return None, None
        line = self._lines[trial.parents["attack"]][self._places[trial.digest][number]]
        states, latents = (line[kind] for kind in _KINDS)
        held = self._all()
        return (
            held[states].float() if states else None,
            held[latents].float() if latents else None,
        )

    def start(self, trial: TrialCell, number: int) -> int:
        """How many of the sampler's steps a candidate's noise has behind it."""
        if not is_published(trial.attack):
            return 0
        line = self._lines[trial.parents["attack"]][self._places[trial.digest][number]]
        return int(line.get("start", 0))

    def _all(self) -> dict[str, Tensor]:
        if self._held is None:
            from safetensors.torch import load_file

            self._held = load_file(self._path) if self._path.is_file() else {}
        return self._held
