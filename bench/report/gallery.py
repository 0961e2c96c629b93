"""Pictures for the run's page: small, inside the file, each with all that is known of it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "IMAGE",
    "LIMIT",
    "PER_CELL",
    "Card",
    "ImageKey",
    "best_of",
    "card_of",
    "gallery",
    "picture_uri",
]

LIMIT = 5 * 2**19
"""Bytes of all pictures of a page, as text."""
PER_CELL = 3
_SIDE = 96
"""The longest side of a picture, in pixels; a smaller one stays as it is."""
IMAGE = ["trial_digest", "candidate", "draw"]

Key = tuple[str, str]
ImageKey = tuple[str, int, int]
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Card:
    """One picture.

    Attributes:
        picture: A data URI; empty where the model gave no image.
        method: The method's label.
        concept: The erased concept.
        attack: The table's attack.
        verdict: ``shown``, ``not shown``, or the status of an image that was not judged.
        score: Of the judge of record; NaN where there is none.
        own_score: The attack's own view of it; NaN where it did not look.
        queries: Images that it looked at for the goal.
        seed: Of the sampler's noise.
        prompt: What was typed, or what stands for it.
    """

    picture: str
    method: str
    concept: str
    attack: str
    verdict: str
    score: float
    own_score: float
    queries: int
    seed: int
    prompt: str


def gallery(
    pictures: Mapping[str, Mapping[Key, Sequence[Picture | None]]],
    images: Mapping[str, Mapping[Key, Sequence[ImageKey]]],
    prompts: Mapping[str, Mapping[Key, Sequence[str]]],
    trials: pd.DataFrame,
    *,
    taken: Sequence[Card] = (),
    limit: int = LIMIT,
) -> list[Card]:
    """The cards of a page, by concept, method and attack in the order of the pictures, those that are taken first.

    Args:
        pictures: concept -> (method, attack) -> pictures, uint8 [H, W, 3]. The first few are shown, and
            fewer of each where they would be too much for a page.
        images: The same for the trial, candidate and draw of each picture.
        prompts: The same for their prompts.
        trials: Rows of :data:`~bench.tables.schema.TRIALS`; the judge that comes first is the judge of record.
        taken: Cards of an earlier report, of lines that were not computed again.
        limit: Bytes of all pictures.
    """
    known = _known(trials, images)
    earlier = _by_cell(taken)

    def card_at(concept: str, key: Key, layer: int) -> Card | None:
        if there := earlier.get((concept, key)):
            return there[layer] if layer < len(there) else None
        shown, of = pictures[concept][key], images.get(concept, {}).get(key, ())
        row = known.get(of[layer]) if layer < min(len(shown), len(of)) else None
        if row is None:
            return None
        uri = picture_uri(shown[layer]) if row["status"] == "ok" else ""
        said = prompts.get(concept, {}).get(key, ())
        return card_of(row, uri, concept, key, prompt=said[layer] if layer < len(said) else "")

    chosen: list[tuple[int, int, Card]] = []
    cells = _cells(pictures, earlier)
    spent = 0
    for layer in range(PER_CELL):
        for place, (concept, key) in enumerate(cells):
            if (card := card_at(concept, key, layer)) is None:
                continue
            spent += len(card.picture)
            if spent > limit:
                return _in_order(chosen)
            chosen.append((place, layer, card))
    return _in_order(chosen)


def _in_order(chosen: Sequence[tuple[int, int, Card]]) -> list[Card]:
    return [card for _, _, card in sorted(chosen, key=lambda one: one[:2])]


def _by_cell(cards: Sequence[Card]) -> dict[tuple[str, Key], list[Card]]:
    found: dict[tuple[str, Key], list[Card]] = {}
    for card in cards:
        found.setdefault((card.concept, (card.method, card.attack)), []).append(card)
    return found


def _cells(
    pictures: Mapping[str, Mapping[Key, Sequence[Picture | None]]],
    earlier: Mapping[tuple[str, Key], Sequence[Card]],
) -> list[tuple[str, Key]]:
    """The cells that have pictures, by concept."""
    cells = [*earlier, *((concept, key) for concept in pictures for key in pictures[concept])]
    places = {concept: place for place, (concept, _) in reversed([*enumerate(cells)])}
    return sorted(dict.fromkeys(cells), key=lambda cell: places[cell[0]])


def _known(
    trials: pd.DataFrame, images: Mapping[str, Mapping[Key, Sequence[ImageKey]]]
) -> dict[ImageKey, dict[str, Any]]:
    """The account of the rows on each image: its best score of a label that counts, and all that labels share."""
    if not len(trials):
        return {}
    asked = {one[0] for of in images.values() for some in of.values() for one in some}
    mine = trials["judge"] == trials["judge"].iloc[0]
    return best_of(trials[mine & trials["trial_digest"].isin(asked)])


def best_of(rows: pd.DataFrame) -> dict[ImageKey, dict[str, Any]]:
    """One judge's account of each image: its best score of a label that counts, and what all labels share."""
    rows = rows.assign(best=rows["score"].where(rows["counts"]))
    best = rows.groupby(IMAGE, sort=False)["best"].max()
    first = rows.drop_duplicates(IMAGE).set_index(IMAGE)
    first = first[["status", "threshold", "own_score", "queries", "image_seed"]].join(best)
    records = first.to_dict("records")
    return dict(zip(first.index.to_list(), records, strict=True))


def card_of(row: Mapping[str, Any], uri: str, concept: str, key: Key, *, prompt: str) -> Card:
    """The card of an image, from the account of :func:`best_of`."""
    score = float(row["best"]) if pd.notna(row["best"]) else math.nan
    shown = "shown" if score >= row["threshold"] else "not shown"
    return Card(
        picture=uri,
        method=key[0],
        concept=concept,
        attack=key[1],
        verdict=shown if row["status"] == "ok" else str(row["status"]),
        score=score,
        own_score=float(row["own_score"]) if pd.notna(row["own_score"]) else math.nan,
        queries=int(row["queries"]),
        seed=int(row["image_seed"]),
        prompt=prompt,
    )


def picture_uri(picture: Picture | None) -> str:
    """The picture as WebP in a data URI; empty for none."""
    if picture is None:
        return ""
    image = Image.fromarray(picture)
    image.thumbnail((_SIDE, _SIDE))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=80, method=3)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
