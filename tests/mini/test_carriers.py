"""Where a concept sits in the text states, and the table of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from bench.core.pages import kept_in
from bench.interfaces import Concept
from bench.judges.mini import MiniJudge
from bench.mini.carriers import PLACES, Carried, _places, carried, table
from bench.model.text_to_image import TextToImage

PAGE = Path(__file__).parents[2] / "docs" / "validity.md"


def test_places_are_told_apart_by_the_concepts_tokens(model: TextToImage) -> None:
    ids_BL = model.tokenize(["as a pixel art, a star", "pixel art"])
    places = _places(model, ids_BL, model.words.ids("pixel art"))
    assert list(places) == list(PLACES)
    told = {k: [row.nonzero().flatten().tolist() for row in v] for k, v in places.items()}
    everything, comma = list(range(model.length)), len(model.words.ids("as a pixel art, a star"))
    assert told["none"] == [[], []]
    assert told["own words"] == [[3, 4], [1, 2]]
    assert told["words after"] == [everything[5 : comma + 1], []]
    assert told["end and padding"] == [everything[comma + 1 :], everything[3:]]
    assert told["all after"] == [everything[5:], everything[3:]]
    assert told["own and after"] == [everything[3:], everything[1:]]


@pytest.mark.slow
def test_a_concept_goes_with_the_states_of_its_own_word(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    (row,) = carried(model, [concepts["star"]], MiniJudge(), images=2)
    assert (row.concept, row.family, row.other, row.images) == ("star", "object", "flower", 2)
    assert row.shown["none"] == row.shown["all after"] == 1
    assert row.shown["own words"] == row.shown["own and after"] == 0
    assert 1 <= row.looking < row.layers == 7


def test_a_neighbour_of_another_length_is_refused(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    with pytest.raises(ValueError, match="expected a first neighbour of 2 tokens, got 'halftone'"):
        next(carried(model, [concepts["pixel art"]], MiniJudge()))


def test_the_table_is_in_per_cent_and_has_its_place_on_the_page() -> None:
    shown = torch.linspace(0, 1, len(PLACES)).tolist()
    row = Carried("star", "object", "flower", 24, dict(zip(PLACES, shown, strict=True)), 3, 7)
    made = table([row]).splitlines()
    assert made[-1] == "| star | object | flower | 24 | 0 | 20 | 40 | 60 | 80 | 100 | 3 of 7 |"
    assert {line.count("|") for line in made} == {made[-1].count("|")}
    assert "| star | object | flower |" in PAGE.read_text()
    assert kept_in(PAGE, "mini carriers", "\n".join(made))
