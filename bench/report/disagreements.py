"""Pictures on which two judges of a suite decide otherwise, for the run's page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.report.gallery import IMAGE, ImageKey, picture_uri
from bench.tables.agreement import both_judged

__all__ = ["Apart", "disagreements"]

LIMIT = 2**20
"""Bytes of all these pictures, as text."""
_PER_METHOD = 4

Key = tuple[str, str]
Picture = NDArray[np.uint8]
Frames = Mapping[str, Mapping[Key, Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Apart:
    """One picture that one judge takes for the concept and another does not.

    Attributes:
        picture: A data URI.
        method: The method's label.
        concept: The erased concept.
        attack: The table's attack.
        sees: The judge that sees the concept.
        score: Its score.
        misses: The judge that does not.
        other_score: Its score.
        prompt: What was typed, or what stands for it.
    """

    picture: str
    method: str
    concept: str
    attack: str
    sees: str
    score: float
    misses: str
    other_score: float
    prompt: str


def disagreements(
    pictures: Frames, images: Frames, prompts: Frames, trials: pd.DataFrame, *, limit: int = LIMIT
) -> list[Apart]:
    """A few pictures per pair of judges and method, of those that a report keeps.

    Args:
        pictures: concept -> (method, attack) -> pictures, uint8 [H, W, 3].
        images: The same for the trial, candidate and draw of each picture.
        prompts: The same for their prompts.
        trials: Rows of :data:`~bench.tables.schema.TRIALS`; with one judge there is no picture.
        limit: Bytes of all pictures.
    """
    apart = list(_apart(trials))
    if not apart:
        return []
    scores = _scores(trials)
    found: list[Apart] = []
    taken: Counter[tuple[str, str, str]] = Counter()
    spent = 0
    for concept, places in images.items():
        wanted = {
            (key, place): one
            for key, of in places.items()
            for place, one in enumerate(of)
            if any(one in pairs for pairs, _, _ in apart)
        }
        shown = pictures[concept] if wanted else {}
        for ((method, attack), place), one in wanted.items():
            if place >= len(of := shown.get((method, attack), ())) or of[place] is None:
                continue
            for pairs, judge, other in apart:
                if one not in pairs or taken[judge, other, method] >= _PER_METHOD:
                    continue
                uri = picture_uri(of[place])
                if (spent := spent + len(uri)) > limit:
                    return found
                taken[judge, other, method] += 1
                sees, misses = (judge, other) if pairs[one] else (other, judge)
                said = prompts.get(concept, {}).get((method, attack), ())
                found.append(
                    Apart(
                        uri, method, concept, attack, sees, scores[(sees, *one)], misses,
                        scores[(misses, *one)], said[place] if place < len(said) else "",
                    )
                )  # fmt: skip
    return found


def _apart(trials: pd.DataFrame) -> Iterator[tuple[dict[ImageKey, bool], str, str]]:
    """Per pair of judges, the images on which they decide otherwise: whether the first sees the concept."""
    for pairs in both_judged(trials):
        rows = pairs[pairs["sees"] != pairs["other_sees"]]
        if len(rows):
            keys = rows[IMAGE].itertuples(index=False, name=None)
            told = dict(zip(keys, rows["sees"].tolist(), strict=True))
            yield told, str(rows["judge"].iloc[0]), str(rows["other"].iloc[0])


def _scores(trials: pd.DataFrame) -> dict[tuple[str, str, int, int], float]:
    """The best score of a label that counts, by judge and image."""
    rows = trials[trials["counts"] & (trials["status"] == "ok")]
    best = rows.groupby(["judge", *IMAGE], sort=False)["score"].max()
    return dict(zip(best.index.to_list(), best.astype(float).to_list(), strict=True))
