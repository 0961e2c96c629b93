"""Samples a random share of the published images again, with the model, and compares verdicts and scores.

Covered are attacks that hold a prompt, whose prompts are in the rows. So are those whose text states or noise are
published, and the accuracy on utility prompts. Tensors that were too large to publish, and the noise of the control
``seed_search``, are covered where the store of the run is given. Not covered are changes of weights, and metrics
that look at the unedited image. The edit is read from a store, or made again by its method.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.core.errors import UsageError
from bench.core.progress import Progress, silent
from bench.interfaces import registry
from bench.leaderboard.again import candidates_again, utility_again
from bench.leaderboard.published_run import PublishedRun
from bench.leaderboard.resampled import Resampled
from bench.leaderboard.tensors import Tensors
from bench.run.cells import EditCell, JudgedCell, MeasuredCell
from bench.run.plan import Plan
from bench.run.store import Store

if TYPE_CHECKING:
    from bench.model.text_to_image import TextToImage

__all__ = ["resample"]

_Key = TypeVar("_Key", bound=tuple[str, int])


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
    """Samples a share of a method's candidates and utility images again.

    Args:
        run: The published rows, found whole.
        plan: Of the protocol, with the method.
        method: Its line in the tables.
        base: The unedited model.
        share: Of the candidates and of the utility images, in (0, 1]; at least one of each is taken.
        seed: Which ones: a submitter should not know it before.
        store: Where edits may lie, and what attacks found; an edit that is not there is made again by the method.
        progress: Told of long work.

    Raises:
        UsageError: the share is none.
    """
    if not 0 < share <= 1:
        raise UsageError(f"--resample: expected a share above 0 and at most 1, got {share}")
    own = run.of(frozenset({method}))
    kept = None if store is None else Store(store)
    tensors, out, rng = Tensors(run, kept), Resampled(), random.Random(seed)
    judged = {
        c.trial.digest: c
        for c in plan.cells
        if isinstance(c, JudgedCell) and c.method_label == method and not c.trial.source
        if c.judge is plan.judges[0]
    }
    asked = {
        c.utility.digest: c
        for c in plan.cells
        if isinstance(c, MeasuredCell) and c.method_label == method and c.metric.asks_judge
    }
    pool: list[tuple[str, int]] = []
    for digest, trial in ((digest, cell.trial) for digest, cell in judged.items()):
        numbers = tensors.numbered(trial, own.trials[own.trials["trial_digest"] == digest])
        if reason := tensors.lacks(trial):
            out.left_out[plan.attack_name(trial.attack)] = reason
        else:
            pool += [(digest, number) for number in numbers]
    prompts = [
        (digest, place)
        for digest, cell in asked.items()
        for place, (_, prompt) in enumerate(cell.utility.prompts)
        if prompt.concept
    ]
    chosen, chosen_prompts = _drawn(pool, share, rng), _drawn(prompts, share, rng)
    out.of, out.candidates = len(pool), len(chosen)
    out.utility_of, out.utility = len(prompts), len(chosen_prompts)
    models = _Edits(plan, base, kept, progress)
    for digest, cell in judged.items():
        if numbers := [number for where, number in chosen if where == digest]:
            rows = own.trials[own.trials["trial_digest"] == digest]
            mine = rows[(rows["judge"] == cell.by) & rows["candidate"].isin(numbers)]
            model = models.of(cell.trial.parents["edit"])
            candidates_again(mine, cell, plan, model, tensors, out)
    for digest, measure in asked.items():
        if places := [place for where, place in chosen_prompts if where == digest]:
            rows = own.utility[own.utility["utility_digest"] == digest]
            model = models.of(measure.utility.parents["edit"])
            utility_again(rows[rows["metric"] == measure.by], measure, places, plan, model, out)
    return out


def _drawn(pool: Sequence[_Key], share: float, rng: random.Random) -> list[_Key]:
    """A share of the pool, in order; one of it at least."""
    return sorted(rng.sample(pool, ceil(share * len(pool)))) if pool else []


class _Edits:
    """The edited models of a plan: from a store, or made again; the last one is kept."""

    def __init__(
        self, plan: Plan, base: TextToImage, store: Store | None, progress: Progress
    ) -> None:
        registry.load()
        self._plan, self._base, self._progress = plan, base, progress
        self._store = store
        self._cells = {c.digest: c for c in plan.cells if isinstance(c, EditCell)}
        self._last: tuple[str, TextToImage] | None = None

    def of(self, digest: str) -> TextToImage:
        """The edited model of an edit's digest."""
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
