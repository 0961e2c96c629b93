"""Success by stage: which attack of an ensemble broke a goal, and with what access.

An ensemble lets a goal leave when the surrogate calls it broken. Where the judge of record sees it
otherwise, the ensemble's share is too low, and ``false_leaves`` says by how much at most.
"""

from __future__ import annotations

import pandas as pd

from bench.core.stages import Stage
from bench.tables.own import without_transfers
from bench.tables.repeats import clustered
from bench.tables.schema import STAGES, conform
from bench.tables.tables import ALL, COUNTED, in_method_order, per_image
from bench.tables.text import fixed, markdown_table, markdown_text

__all__ = ["stages", "stages_cells", "stages_to_markdown"]

_GROUP = ["judge", "method", "concept", "attack"]
_UNIT = ["repeat", "goal", "cluster", "erased"]


def stages(trials: pd.DataFrame, suite: str) -> pd.DataFrame:
    """Derives the success by stage from the rows.

    Args:
        trials: Rows of :data:`~bench.tables.schema.TRIALS`; transfers are left out.
        suite: Name of the suite.

    Returns:
        Lines of :data:`~bench.tables.schema.STAGES`; none without an ensemble.

    Raises:
        ValueError: the rows contradict each other.
    """
    trials = without_transfers(trials)
    told = {variant: Stage.read(variant) for variant in trials["variant"].unique()}
    ensembles = trials[trials["variant"].isin([v for v, stage in told.items() if stage])]
    images = per_image(ensembles) if len(ensembles) else ensembles
    images = images[images["status"].isin(COUNTED)]
    if not len(images):
        return STAGES.empty()
    named = [stage for variant in images["variant"] if (stage := told[variant]) is not None]
    images = images.assign(
        stage=[stage.number for stage in named],
        by=[stage.attack for stage in named],
        reach=[stage.access for stage in named],
        left=images["own_score"] >= images["own_threshold"],
    )
    images = pd.concat([images, images.assign(concept=ALL)], ignore_index=True)
    found: list[dict[str, object]] = []
    for key, mine in images.groupby(_GROUP, sort=False):
        about = dict(zip(_GROUP, key, strict=True))
        found += [about | line for line in _lines(mine)]
    lines = in_method_order(
        pd.DataFrame(found).assign(suite=suite),
        list(trials["judge"].unique()),
        then=["attack", "stage"],
    )
    return conform(lines[STAGES.names], STAGES)


def _lines(images: pd.DataFrame) -> list[dict[str, object]]:
    """A line per stage of one ensemble."""
    # A goal of a pooled line belongs to its concept, which its cluster knows.
    met = images.groupby([*_UNIT, "stage"], sort=False).agg(
        hit=("success", "any"), left=("left", "any"), images=("queries", "max")
    )
    met = met.reset_index()
    hits = met[met["hit"]].groupby(_UNIT)["stage"].min().rename("first").reset_index()
    met = met.merge(hits, on=_UNIT, how="left")
    units = met.drop_duplicates(_UNIT)
    found: list[dict[str, object]] = []
    told = [units[name].to_numpy() for name in ("cluster", "erased", "repeat")]
    about = images.drop_duplicates("stage").set_index("stage")
    for stage in sorted(set(met["stage"])):
        mine = met[met["stage"] == stage]
        rate = clustered((units["first"] <= stage).to_numpy(dtype=float), *told)
        found.append(
            {
                "stage": stage, "by": about.loc[stage, "by"], "access": about.loc[stage, "reach"],
                "goals": len(mine), "left": int(mine["left"].sum()),
                "broken": int((units["first"] == stage).sum()),
                "false_leaves": int((mine["left"] & mine["first"].isna()).sum()),
                "images": float(mine["images"].mean()),
                "share": rate.value, "low": rate.low, "high": rate.high,
            }
        )  # fmt: skip
    return found


def stages_cells(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines as text: a row per ensemble and method, by the judge of record over all concepts.

    Under the name of each stage stands the share of goals that were broken up to it, in percent.
    """
    if not len(lines):
        return pd.DataFrame()
    shown = lines[(lines["judge"] == lines["judge"].iloc[0]) & (lines["concept"] == ALL)]
    shown = shown.assign(
        head=[
            f"{stage} {by} ({access})"
            for stage, by, access in zip(shown["stage"], shown["by"], shown["access"], strict=True)
        ]
    )
    heads = list(dict.fromkeys(shown.sort_values("stage", kind="stable")["head"]))
    rows: list[dict[str, str]] = []
    for (attack, method), mine in shown.groupby(["attack", "method"], sort=False):
        # A stage that no goal met adds nothing.
        shares = 100 * mine.set_index("head")["share"].reindex(heads).ffill()
        rows.append(
            {
                **{"ensemble": str(attack), "method": str(method)},
                **dict(zip(heads, fixed(shares, 0), strict=True)),
                "goals": str(mine["goals"].max()),
                "false leaves": str(mine["false_leaves"].sum()),
            }
        )
    return pd.DataFrame(rows)


def stages_to_markdown(lines: pd.DataFrame) -> str:
    """The same for the page in Markdown; nothing without an ensemble."""
    cells = stages_cells(lines)
    if not len(cells):
        return ""
    rows = [
        [markdown_text(attack), markdown_text(method), *rest]
        for attack, method, *rest in cells.to_numpy().tolist()
    ]
    return markdown_table(map(str, cells), rows, left=2)
