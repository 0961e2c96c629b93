"""How far two judges of a suite decide alike on the same images.

Cohen (1960), A coefficient of agreement for nominal scales. Educational and Psychological Measurement 20.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.tables.own import without_transfers
from bench.tables.schema import AGREEMENT, conform
from bench.tables.tables import ALL, in_method_order, per_image
from bench.tables.text import NONE, fixed, markdown_table, markdown_text

__all__ = ["agreement", "agreement_cells", "agreement_to_markdown", "both_judged", "kappa"]

_IMAGE = ["trial_digest", "candidate", "draw", "method", "attack", "concept", "repeat"]
_RESAMPLES = 2000


def agreement(trials: pd.DataFrame, suite: str) -> pd.DataFrame:
    """Derives the lines from the rows; none where there is one judge.

    Args:
        trials: Rows of :data:`~bench.tables.schema.TRIALS`; transfers are left out.
        suite: Name of the suite.

    Returns:
        Lines of :data:`~bench.tables.schema.AGREEMENT`: pooled lines first.
    """
    found = [line for pairs in both_judged(trials) for line in _lines(pairs)]
    if not found:
        return AGREEMENT.empty()
    lines = pd.DataFrame(found).assign(suite=suite)
    judges = list(dict.fromkeys(lines["judge"]))
    lines = in_method_order(lines, judges, then=["other"])
    lines = lines.assign(pooled=lines["method"] != ALL).sort_values("pooled", kind="stable")
    return conform(lines[AGREEMENT.names].reset_index(drop=True), AGREEMENT)


def both_judged(trials: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The images that two judges have judged, a frame per pair of judges.

    Args:
        trials: Rows of :data:`~bench.tables.schema.TRIALS`; transfers are left out.

    Returns:
        Frames with a row per image: ``judge``, ``other``, what names the image, ``line``, ``goal``,
        ``sees`` and ``other_sees``.
    """
    trials = without_transfers(trials)
    judges = list(trials["judge"].unique())
    if len(judges) < 2:
        return
    images = per_image(trials)
    images = images[images["status"] == "ok"].rename(columns={"success": "sees"})
    names = [*_IMAGE, "line", "goal", "cluster", "judge", "sees"]
    for judge, other in combinations(judges, 2):
        mine = images.loc[images["judge"] == judge, names]
        theirs = images.loc[images["judge"] == other, [*_IMAGE, "judge", "sees"]]
        theirs = theirs.rename(columns={"judge": "other", "sees": "other_sees"})
        yield mine.merge(theirs, on=_IMAGE, validate="one_to_one")


def kappa(counts_4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cohen's kappa of two judges.

    It is (p - e) / (1 - e). Here p is the share of images on which they decide alike. The share e would be
    alike by chance, if each said yes as often as it does.

    Args:
        counts_4: [..., 4]: images that both see, the one alone, the other alone, neither.

    Returns:
        [...]; NaN without images, and where chance leaves nothing to explain.
    """
    both, one, other, neither = np.moveaxis(np.asarray(counts_4, dtype=np.float64), -1, 0)
    n = both + one + other + neither
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = (both + neither) / n
        chance = ((both + one) * (both + other) + (neither + one) * (neither + other)) / n**2
        found = (alike - chance) / (1 - chance)
    return np.where((n > 0) & (1 - chance > 1e-12), found, np.nan)


def agreement_cells(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines over all concepts as text; no rows without lines."""
    pooled = lines[lines["concept"] == ALL]
    bounds = pooled[["kappa", "kappa_low", "kappa_high"]].itertuples(index=False)
    return pd.DataFrame(
        {
            "judge": pooled["judge"],
            "other": pooled["other"],
            "method": pooled["method"].replace({ALL: "all methods"}),
            "images": pooled["n"].astype(str),
            "alike %": fixed(100 * pooled["agreement"], 0),
            "kappa": [_said(*row) for row in bounds],
            "judge alone": pooled["judge_only"].astype(str),
            "other alone": pooled["other_only"].astype(str),
        }
    )


def agreement_to_markdown(lines: pd.DataFrame) -> str:
    """The lines over all concepts for people; nothing without lines."""
    cells = agreement_cells(lines).map(markdown_text)
    if not len(cells):
        return ""
    return markdown_table(map(str, cells), cells.to_numpy().tolist(), left=3)


def _lines(pairs: pd.DataFrame) -> Iterator[dict[str, object]]:
    every = pd.concat([pairs, pairs.assign(method=ALL)], ignore_index=True)
    every = pd.concat([every, every.assign(concept=ALL)], ignore_index=True)
    kinds = _kinds(every)
    for (method, concept), mine in every.groupby(["method", "concept"], sort=False):
        at = mine.index.to_numpy()
        counts, clusters = kinds[at], every["cluster"].to_numpy()[at]
        total = counts.sum(0)
        low, high = _bounds(counts, clusters)
        first = every.iloc[at[0]]
        yield {
            "judge": first["judge"], "other": first["other"], "method": method, "concept": concept,
            "n": int(total.sum()), "both": int(total[0]), "judge_only": int(total[1]),
            "other_only": int(total[2]), "neither": int(total[3]),
            "agreement": float((total[0] + total[3]) / total.sum()),
            "kappa": float(kappa(total)), "kappa_low": low, "kappa_high": high,
        }  # fmt: skip


def _kinds(pairs: pd.DataFrame) -> NDArray[np.float64]:
    """[N, 4]: which of the four cases each image is."""
    sees, other = pairs["sees"].to_numpy(bool), pairs["other_sees"].to_numpy(bool)
    return np.stack([sees & other, sees & ~other, ~sees & other, ~sees & ~other], 1).astype(float)


def _bounds(counts_N4: NDArray[np.float64], clusters: NDArray[np.int64]) -> tuple[float, float]:
    """The 95 % bounds of kappa: a percentile bootstrap that draws whole goals."""
    _, codes = np.unique(clusters, return_inverse=True)
    count = int(codes.max()) + 1
    value = float(kappa(counts_N4.sum(0)))
    if count < 2 or np.isnan(value):
        return np.nan, np.nan
    sums = np.stack([np.bincount(codes, counts_N4[:, k], count) for k in range(4)], axis=1)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    found = kappa((drawn @ sums).astype(np.float64))
    found = found[np.isfinite(found)]
    if len(found) < 2:
        return np.nan, np.nan
    low, high = np.quantile(found, [0.025, 0.975])
    return min(float(low), value), max(float(high), value)


def _said(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return NONE
    return f"{value:.2f}" if pd.isna(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
