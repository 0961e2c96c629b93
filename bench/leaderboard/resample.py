"""Samples a random share of the published candidates again, with the model, and compares verdicts and scores.

Covered are attacks that hold a prompt, whose prompts are in the rows, and those whose text states or noise are
published. Not covered are the noise of the control ``seed_search``, which stays in the store, changes of weights,
tensors that were too large to publish, and the images of utility prompts. The edit is read from a store, or made again.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from bench.core.errors import UsageError
from bench.core.lazy import torch
from bench.core.progress import Progress, silent
from bench.interfaces import registry
from bench.interfaces.minors import NoMinors, about_minors
from bench.leaderboard.found import is_published
from bench.leaderboard.published_run import PublishedRun
from bench.run.cells import EditCell, JudgedCell, TrialCell
from bench.run.plan import Plan
from bench.run.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from bench.model.text_to_image import TextToImage

__all__ = ["ALLOWED", "TOLERANCE", "Resampled", "resample"]

TOLERANCE: Final = 0.05
"""A score that moved by no more is the same: other machines round otherwise."""
ALLOWED: Final = 0.05
"""The share of the images that may have moved further: a chaotic sampler on another machine does that."""
_KINDS: Final = ("states", "latents")
Key = tuple[str, int]


@dataclass(slots=True)
class Resampled:
    """The outcome of sampling candidates again.

    Attributes:
        candidates: How many of a method's candidates were sampled again.
        of: How many could have been.
        images: Their images.
        identical: Images that are the same to the last bit.
        apart: The others whose status changed or whose score moved by more than the tolerance, in words.
        flipped: Images whose verdict changed.
        largest: The largest change of a score.
        left_out: Attacks whose candidates cannot be sampled again, with the reason.
    """

    candidates: int = 0
    of: int = 0
    images: int = 0
    identical: int = 0
    apart: list[str] = field(default_factory=list)
    flipped: int = 0
    largest: float = 0.0
    left_out: dict[str, str] = field(default_factory=dict)

    def refuse(self, where: Path) -> None:
        """Refuses rows that the model does not give.

        Raises:
            UsageError: more images are apart than another machine explains.
        """
        if len(self.apart) > ALLOWED * self.images:
            raise UsageError(
                f"{where}: expected the scores of the rows from {self.images} images sampled again, and "
                f"{len(self.apart)} differ, e.g. {self.apart[0]}"
            )


def resample(
    run: PublishedRun,
    plan: Plan,
    method: str,
    base: TextToImage,
    *,
    share: float,
    seed: int,
    store: Path | None = None,
    progress: Progress = silent,
) -> Resampled:
    """Samples a share of a method's candidates again.

    Args:
        run: The published rows, found whole.
        plan: Of the protocol, with the method.
        method: Its line in the tables.
        base: The unedited model.
        share: Of the candidates, in (0, 1]; at least one is taken.
        seed: Which ones: a submitter should not know it before.
        store: Where edits may lie; what is not there is made again by the method.
        progress: Told of long work.

    Raises:
        UsageError: the share is none.
    """
    if not 0 < share <= 1:
        raise UsageError(f"--resample: expected a share above 0 and at most 1, got {share}")
    rows = run.of(frozenset({method})).trials
    tensors = _Tensors(run)
    out = Resampled()
    cells = [c for c in plan.cells if isinstance(c, JudgedCell) and c.method_label == method]
    cells = [c for c in cells if c.judge is plan.judges[0] and not c.trial.source]
    known = {c.trial.digest: c for c in cells}
    pool: list[Key] = []
    for cell in cells:
        mine = rows[rows["trial_digest"] == cell.trial.digest]
        numbers = tensors.numbered(cell.trial, mine)
        if reason := tensors.lacks(cell.trial):
            out.left_out[plan.attack_name(cell.trial.attack)] = reason
        else:
            pool += [(cell.trial.digest, int(number)) for number in numbers]
    out.of = len(pool)
    chosen = sorted(random.Random(seed).sample(pool, ceil(share * len(pool)))) if pool else []
    out.candidates = len(chosen)
    models = _Edits(plan, base, store, progress)
    for digest, cell in known.items():
        numbers = [number for trial, number in chosen if trial == digest]
        if numbers:
            judge = (rows["trial_digest"] == digest) & (rows["judge"] == cell.by)
            mine = rows[judge & rows["candidate"].isin(numbers)]
            _again(mine, cell, plan, models.of(cell), tensors, out)
    return out


class _Tensors:
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

    def _all(self) -> dict[str, Tensor]:
        if self._held is None:
            from safetensors.torch import load_file

            self._held = load_file(self._path) if self._path.is_file() else {}
        return self._held


class _Edits:
    """The edited models of a plan: from a store, or made again; the last one is kept."""

    def __init__(
        self, plan: Plan, base: TextToImage, store: Path | None, progress: Progress
    ) -> None:
        registry.load()
        self._plan, self._base, self._progress = plan, base, progress
        self._store = None if store is None else Store(store)
        self._cells = {c.digest: c for c in plan.cells if isinstance(c, EditCell)}
        self._last: tuple[str, TextToImage] | None = None

    def of(self, cell: JudgedCell) -> TextToImage:
        """The edited model of a trial."""
        digest = cell.trial.parents["edit"]
        if self._last is None or self._last[0] != digest:
            self._last = (digest, self._made(digest))
        return self._last[1]

    def _made(self, digest: str) -> TextToImage:
        from bench.run.stages.edit import edit
        from bench.run.stages.workspace import Workspace

        if self._store is not None and (entry := self._store.find("edit", digest)) is not None:
            return self._base.load_edit(entry.path)
        with tempfile.TemporaryDirectory() as folder:
            work = Workspace(self._plan, Store(Path(folder)), self._base, self._progress)
            _, write = edit(work, self._cells[digest])
            place = Path(folder) / "edit-again"
            place.mkdir()
            write(place)
            return self._base.load_edit(place)


def _again(
    rows: pd.DataFrame,
    cell: JudgedCell,
    plan: Plan,
    model: TextToImage,
    tensors: _Tensors,
    out: Resampled,
) -> None:
    """Samples the images of some rows of one trial again, has them judged, and compares."""
    from bench.model.conditioning import Conditioning
    from bench.run.stages.drawn import sampled_by, way_of
    from bench.run.stages.pictures import as_bytes, as_floats, sums

    images = rows.drop_duplicates(["candidate", "draw"]).to_dict("records")
    for group in _alike(images, cell.trial, tensors):
        first = group[0]
        states = [
            s for row in group if (s := tensors.of(cell.trial, row["candidate"])[0]) is not None
        ]
        latents = [
            z for row in group if (z := tensors.of(cell.trial, row["candidate"])[1]) is not None
        ]
        way = way_of(cell.trial.draws.get(first["goal"]))
        attacked, sampler = sampled_by(model.with_filters(NoMinors()), plan.sampler, way)
        found = attacked.sample(
            [row["prompt"] for row in group],
            [int(row["image_seed"]) for row in group],
            sampler,
            conditioning=Conditioning(torch.stack(states)) if states else None,
            latents_BChw=torch.stack(latents) if latents else None,
        )
        pictures = as_bytes(found.images_B3HW)
        shas = sums(pictures, found.status)
        scores = cell.judge.scores(as_floats(pictures), cell.concept).float().cpu().numpy()
        for row, sha, status, score in zip(group, shas, found.status, scores, strict=True):
            same = (rows["candidate"] == row["candidate"]) & (rows["draw"] == row["draw"])
            _compare(rows[same], cell, (sha, status, score), out)


def _alike(images: Sequence[Any], trial: TrialCell, tensors: _Tensors) -> Iterator[list[Any]]:
    """The images in groups that one call can sample."""
    groups: dict[Any, list[Any]] = {}
    for row in images:
        states, latents = tensors.of(trial, row["candidate"])
        draw = trial.draws.get(row["goal"])
        key = (states is None, latents is None, draw and (draw.guidance, draw.negative))
        groups.setdefault(key, []).append(row)
    yield from groups.values()


def _compare(
    rows: pd.DataFrame,
    cell: JudgedCell,
    again: tuple[str, str, np.ndarray[Any, np.dtype[np.float32]]],
    out: Resampled,
) -> None:
    """Compares the rows of one image with what it is when it is sampled again."""
    sha, status, scores = again
    first = rows.iloc[0]
    name = f"{cell.trial.title} / {first['goal']}"
    out.images += 1
    if status != first["status"]:
        out.apart.append(f"{name}: {first['status']} in the rows, {status} again")
        return
    if status != "ok":
        out.identical += 1
        return
    by_label = dict(zip(cell.judge.labels(cell.concept), scores.tolist(), strict=True))
    stored = dict(zip(rows["label"], rows["score"].astype(float), strict=True))
    moved = {label: abs(stored[label] - by_label[label]) for label in stored}
    worst = max(moved, key=lambda label: moved[label])
    out.largest = max(out.largest, moved[worst])
    counting = rows.loc[rows["counts"], "label"]
    verdicts = [
        max(of[label] for label in counting) >= cell.judge.threshold for of in (stored, by_label)
    ]
    out.flipped += verdicts[0] != verdicts[1]
    # The bytes alone prove nothing: a score beside them may be another one's.
    out.identical += sha == first["image_sha256"] and moved[worst] <= TOLERANCE
    if moved[worst] > TOLERANCE:
        out.apart.append(f"{name}: {stored[worst]:.3f} in the rows, {by_label[worst]:.3f} again")
