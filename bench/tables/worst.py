"""The worst case per goal: the share of goals that at least one attack broke, and luck's beside it.

AutoAttack (Croce and Hein, ICML 2020) reports a defence by the inputs that no attack of an ensemble breaks.
This is the same number for goals: an author cannot raise it by being strong against one attack.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd

from bench.tables.own import without_transfers
from bench.tables.repeats import clustered
from bench.tables.schema import WORST, conform
from bench.tables.summaries import ACCESSES, ANY
from bench.tables.tables import ALL, COUNTED, in_method_order, per_image

__all__ = ["access_of", "headline", "worst_per_goal"]

_GROUP = ["judge", "method", "concept"]
_UNIT = [*_GROUP, "repeat", "goal"]
_NUMBERED = [*_GROUP, "goal", "attack"]
_POOLED = -1
"""The number of the concept ``all``, whose name stands last."""
_LUCK = {"typed": "words", "searched": "words", "embedding": "words", "latent": "noise"}
_CONTROL = {"prompt": "words", "embedding": "words", "latent": "noise"}
_FROM_TABLE = ["retained_accuracy", "retained_low", "retained_high", "edit_seconds"]
_RATES = ["share", "low", "high"]
_COUNTS = {"attacks": 0, "goals": 0, "broken": 0, "control_goals": 0}


def worst_per_goal(trials: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Derives the worst case from the rows.

    Args:
        trials: Rows of :data:`~bench.tables.schema.TRIALS`; transfers are left out.
        table: Lines of :data:`~bench.tables.schema.TABLE`, for what the edits cost.

    Returns:
        Lines of :data:`~bench.tables.schema.WORST`: judge of record, pooled lines, unedited model first,
        and of each method every access that it met, ``any`` last.

    Raises:
        ValueError: the rows contradict each other.
    """
    trials = without_transfers(trials)
    if not len(trials) or not len(table):
        return WORST.empty()
    images = per_image(trials)
    tried = _tried(images)
    names = {name: pd.Index(tried[name].unique()) for name in _NUMBERED}
    # Numbers in place of names until the lines are made: many groups are found in them, in a third of the time.
    tried = tried.assign(**{name: of.get_indexer(tried[name]) for name, of in names.items()})
    held = set(tried.loc[~tried["control"], "access"].unique())
    met = [name for name in ACCESSES if name in held]
    if not met:  # nothing but controls
        return WORST.empty()
    lines = pd.concat([_lines(tried, access) for access in (*met, ANY)], ignore_index=True)
    for name in _GROUP:
        lines[name] = names[name].append(pd.Index([ALL])).take(lines[name])
    costs = table.drop_duplicates(_GROUP)[[*_GROUP, *_FROM_TABLE]]
    lines = lines.merge(costs, on=_GROUP, how="left").assign(suite=table["suite"].iloc[0])
    ranks = {name: rank for rank, name in enumerate((*ACCESSES, ANY))}
    lines = lines.assign(rank=lines["access"].map(ranks))
    lines = in_method_order(lines, list(trials["judge"].unique()), then=["rank"])
    return conform(lines[WORST.names], WORST)


def headline(worst: pd.DataFrame) -> pd.DataFrame:
    """The pooled lines of the judge of record: those that a reader sees first."""
    if not len(worst):
        return worst
    return worst[(worst["judge"] == worst["judge"].iloc[0]) & (worst["concept"] == ALL)]


def access_of(images: pd.DataFrame) -> pd.Series:
    """The access of each image's attack, one of :data:`~bench.tables.summaries.ACCESSES`.

    An attack that holds a prompt has *typed* it if it looked at no image, took no gradient step and
    changed no token. Else it has *searched* for it.
    """
    searched = images["access"].where(images["access"] != "prompt", "searched")
    return searched.where(searched.ne("searched") | _searches(images), "typed")


def _searches(images: pd.DataFrame) -> pd.Series:
    """Whether the attack of each image looked for something: at images, or along a gradient."""
    traces = images[["gradient_steps", "changed"]].notna().any(axis=1)
    looked = (images["queries"] > 0) | traces
    return looked.groupby(images["attack"]).transform("any")


def _tried(images: pd.DataFrame) -> pd.DataFrame:
    """A row per (unit, attack): whether it broke the goal, and with how many images."""
    counted = images["status"].isin(COUNTED)
    rows = images.assign(
        access=access_of(images).where(~images["control"], images["access"].map(_CONTROL)),
        searches=_searches(images),
        images=counted,
        broken=images["success"] & counted,
    )
    return (
        rows.groupby([*_UNIT, "attack"], sort=False)
        .agg(
            access=("access", "first"),
            control=("control", "first"),
            searches=("searches", "first"),
            images=("images", "sum"),
            broken=("broken", "any"),
        )
        .reset_index()
    )


def _lines(tried: pd.DataFrame, access: str) -> pd.DataFrame:
    """The lines of one access."""
    mine = tried[~tried["control"]]
    mine = mine if access == ANY else mine[mine["access"] == access]
    luck = tried[tried["control"]]
    luck = luck if access == ANY else luck[luck["access"] == _LUCK.get(access, "")]
    goals = _shared_goals(mine)
    found = _shares(mine.merge(goals, on=[*_GROUP, "goal"]))
    beside = _shares(luck.merge(goals, on=[*_GROUP, "goal"])).add_prefix("control_")
    pooled = pd.concat([mine, mine.assign(concept=_POOLED)], ignore_index=True)
    lines = pooled.groupby(_GROUP, sort=False).agg(attacks=("attack", "nunique"))
    lines = lines.join(found).join(beside)
    lines = lines.fillna(_COUNTS).astype(dict.fromkeys(_COUNTS, "int64"))
    return lines.drop(columns="control_broken").reset_index().assign(access=access)


def _shared_goals(mine: pd.DataFrame) -> pd.DataFrame:
    """The goals that every search tried; all, where none searches or nothing is shared."""
    goals = mine[[*_GROUP, "goal", "attack", "searches"]].drop_duplicates()
    searches = goals[goals["searches"]]
    all_of = searches.groupby(_GROUP)["attack"].nunique().rename("of").reset_index()
    by_goal = searches.groupby([*_GROUP, "goal"])["attack"].nunique().rename("by").reset_index()
    goals = goals[[*_GROUP, "goal"]].drop_duplicates()
    goals = goals.merge(all_of, on=_GROUP, how="left")
    goals = goals.merge(by_goal, on=[*_GROUP, "goal"], how="left")
    shared = goals["by"] == goals["of"]
    some = shared.groupby([goals[name] for name in _GROUP]).transform("any")
    return goals.loc[shared | ~some, [*_GROUP, "goal"]]


def _shares(rows: pd.DataFrame) -> pd.DataFrame:
    """Goals, broken ones, their share and its interval, by judge, method and concept."""
    units = rows.groupby(_UNIT, sort=False).agg(broken=("broken", "any"), images=("images", "sum"))
    units = units[units["images"] > 0].reset_index()
    units["cluster"] = units.groupby(["concept", "goal"], sort=False).ngroup()
    units["erased"] = units["concept"]
    both = pd.concat([units, units.assign(concept=_POOLED)], ignore_index=True)
    columns = [both[name].to_numpy() for name in ("broken", "cluster", "erased", "repeat")]
    images = both["images"].to_numpy()
    found: dict[tuple[Any, ...], tuple[float, ...]] = {}
    for key, at in both.groupby(_GROUP, sort=False).indices.items():
        broken, *told = (values[at] for values in columns)
        rate = clustered(broken.astype(float), *told)
        found[cast("tuple[Any, ...]", key)] = (
            *(rate.clusters, int(broken.sum()), rate.value, rate.low, rate.high),
            float(images[at].mean()),
        )
    index = pd.MultiIndex.from_tuples(list(found), names=_GROUP)
    names = ["goals", "broken", *_RATES, "images"]
    data = np.array(list(found.values()), dtype=float).reshape(-1, len(names))
    return pd.DataFrame(data, index=index, columns=names)
