"""The cost of an edit by every metric of a suite: values per image, and of sets."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.tables.repeats import between_repeats
from bench.tables.schema import DISTANCES, MEASURES, UTILITY, check, conform
from bench.tables.stats import bootstrap_mean, proportion
from bench.tables.tables import ALL, COUNTED, in_method_order
from bench.tables.text import NONE, markdown_table, markdown_text

__all__ = ["PAPERS", "measures", "measures_cells", "measures_to_markdown"]

PAPERS = "clip_score x100"
"""The CLIP score as papers print it: the mean of max(100 cos, 0)."""
_CLIP = "clip_score"
_ACCURACY = "accuracy"
_USED = ["metric", "method", "concept", "repeat", "prompt", "status", "value", "threshold"]


def measures(utility: pd.DataFrame, distances: pd.DataFrame, suite: str) -> pd.DataFrame:
    """Derives the lines from the rows.

    Args:
        utility: Rows of :data:`~bench.tables.schema.UTILITY`.
        distances: Rows of :data:`~bench.tables.schema.DISTANCES`.
        suite: Name of the suite.

    Returns:
        Lines of :data:`~bench.tables.schema.MEASURES`: pooled lines and the unedited model first.
    """
    check(utility, UTILITY)
    check(distances, DISTANCES)
    found = [*_per_image(utility), *_of_sets(distances)]
    if not found:
        return MEASURES.empty()
    lines = pd.DataFrame(found).assign(suite=suite, judge="")
    order = {name: place for place, name in enumerate(dict.fromkeys(lines["metric"]))}
    lines = lines.assign(place=lines["metric"].map(order))
    lines = in_method_order(lines, [""], then=["place", "against"])
    return conform(lines[MEASURES.names], MEASURES)


def measures_cells(lines: pd.DataFrame) -> pd.DataFrame:
    """The pooled lines as text: a row per method, a column per metric; no rows without lines."""
    pooled = lines[lines["concept"] == ALL]
    against = pooled["against"].map(lambda name: f" against {name}" if name else "")
    heads = (pooled["metric"] + against).to_list()
    bounds = pooled[["value", "low", "high"]].itertuples(index=False)
    told = dict(zip(zip(pooled["method"], heads, strict=True), bounds, strict=True))
    methods = list(dict.fromkeys(pooled["method"]))
    cells: dict[str, list[str]] = {"method": methods}
    for head in dict.fromkeys(heads):
        cells[head] = [_said(*told[m, head]) if (m, head) in told else NONE for m in methods]
    return pd.DataFrame(cells)


def measures_to_markdown(lines: pd.DataFrame) -> str:
    """The pooled lines for people; nothing without lines."""
    cells = measures_cells(lines)
    if not len(cells):
        return ""
    rows = [[*map(markdown_text, row)] for row in cells.to_numpy().tolist()]
    return markdown_table(map(markdown_text, cells), rows, left=1)


def _per_image(utility: pd.DataFrame) -> list[dict[str, object]]:
    rows = utility.loc[utility["status"].isin(COUNTED), _USED]
    wrong = (rows["metric"] == _ACCURACY) & (rows["status"] != "ok")
    rows = rows.assign(value=rows["value"].astype(float).mask(wrong, 0.0))
    told = rows["threshold"].notna()
    rows["value"] = rows["value"].mask(told, (rows["value"] >= rows["threshold"]).astype(float))
    rows = rows[(rows["status"] == "ok") | wrong]
    clip = rows[rows["metric"] == _CLIP]
    papers = clip.assign(metric=PAPERS, value=(100 * clip["value"]).clip(lower=0))
    rows = pd.concat([rows, papers], ignore_index=True)
    rows["prompt"] = pd.factorize(rows["prompt"], sort=True)[0]  # numbers are told apart sooner
    rows["erased"] = rows["concept"].factorize()[0]
    rows = pd.concat([rows, rows.assign(concept=ALL)], ignore_index=True)
    found: list[dict[str, object]] = []
    for (metric, method, concept), mine in rows.groupby(
        ["metric", "method", "concept"], sort=False
    ):
        values, prompts = mine["value"].to_numpy(float), mine["prompt"].to_numpy()
        more = between_repeats(values, prompts, mine["erased"], mine["repeat"])
        if bool(np.isin(values, (0, 1)).all()) and metric == _ACCURACY:
            one = proportion(values, prompts, more=more)
        else:
            one = bootstrap_mean(values, prompts, resamples=2000, more=more)
        found.append(_line(method, concept, metric, "", one.value, one.low, one.high, one.n))
    return found


def _of_sets(distances: pd.DataFrame) -> list[dict[str, object]]:
    """Each value; over several repeats and concepts, the mean with its bounds.

    For k independent values the distances to their bounds are added in squares. The lower bound of the mean
    is mean - sqrt(sum (value - low)^2) / k, and the upper likewise.
    """
    rows = distances[distances["status"] == "ok"]
    # What a metric is told apart by: its own name where two have one column.
    twice = rows.groupby("column")["metric"].transform("nunique") > 1
    rows = rows.assign(called=rows["column"].where(~twice, rows["metric"]))
    rows = pd.concat([rows, rows.assign(concept=ALL)], ignore_index=True)
    found: list[dict[str, object]] = []
    keys = ["called", "against", "method", "concept"]
    for (called, against, method, concept), mine in rows.groupby(keys, sort=False):
        value, count = float(mine["value"].mean()), len(mine)
        below, above = (
            float(np.sqrt(np.square(apart.to_numpy(float)).sum()) / count)
            for apart in (mine["value"] - mine["low"], mine["high"] - mine["value"])
        )
        fewest = int(mine["images"].min())
        found.append(
            _line(method, concept, called, against, value, value - below, value + above, fewest)
        )
    return found


def _line(
    method: object, concept: object, metric: object, against: object,
    value: float, low: float, high: float, images: int,
) -> dict[str, object]:  # fmt: skip
    return {
        "method": method, "concept": concept, "metric": metric, "against": against,
        "value": value, "low": low, "high": high, "images": images,
    }  # fmt: skip


def _said(value: float, low: float, high: float) -> str:
    """A number with its interval, of three digits that count."""
    if pd.isna(value):
        return NONE
    if pd.isna(low) or pd.isna(high):
        return f"{value:.3g}"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
