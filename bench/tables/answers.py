"""The answers of ensembles among their finds: what they would hand over, chosen by the surrogate."""

from __future__ import annotations

import pandas as pd

from bench.core.stages import Stage

__all__ = ["answers"]

_SEARCH = ["trial_digest", "goal"]


def answers(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows without those finds of an ensemble that it has a better one for, by its own score.

    An ensemble gives a find of every stage that a goal met, so that nothing is hidden from the judge. A success
    *rate* is of its answer, as that of any other attack: the stages that failed first do not count against it. The
    worst case per goal and the table of stages take all finds.

    Args:
        trials: Rows of :data:`~bench.tables.schema.TRIALS`.

    Returns:
        The rows of other attacks as they are. Those of an ensemble carry the ``queries`` of all its stages.
    """
    told = {variant: Stage.read(variant) is not None for variant in trials["variant"].unique()}
    if not any(told.values()):
        return trials
    staged = trials["variant"].map(told).astype(bool)
    mine = trials[staged]
    finds = mine.drop_duplicates([*_SEARCH, "candidate"])
    finds = finds.sort_values(["own_score", "candidate"], ascending=False, kind="stable")
    best = finds.drop_duplicates(_SEARCH)[[*_SEARCH, "candidate"]]
    spent = mine.groupby(_SEARCH)["queries"].transform("max")
    wanted = pd.MultiIndex.from_frame(best)
    chosen = pd.MultiIndex.from_frame(mine[[*_SEARCH, "candidate"]]).isin(wanted)
    kept = mine.assign(queries=spent)[chosen]
    return pd.concat([trials[~staged], kept]).sort_index(kind="stable")
