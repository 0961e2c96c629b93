from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from bench.interfaces import Concept, Judge
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from tests.small_pictures import SmallPictures
from tvc.sight import Sight


class Blind(SmallPictures):
    """It gives no number for the second image."""

    name: ClassVar[str] = "blind"

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        scores = super().scores(images_B3HW, concept)
        scores[1] = torch.nan
        return scores


def looked(checker: Judge, model: TextToImage, concept: Concept) -> Tensor:
    return Sight(concept, Sampler(steps=2), checker).seen(model, torch.rand(3, 3, 32, 32))


def test_a_score_that_is_no_number_is_an_error_and_no_image_without_the_concept(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    assert looked(SmallPictures(), model, concepts["star"]).shape == (3,)
    with pytest.raises(FloatingPointError, match="blind: a score is not finite"):
        looked(Blind(), model, concepts["star"])
