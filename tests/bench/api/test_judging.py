"""Images of any origin are judged as those of a run are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench import judge
from bench.core.errors import UsageError
from bench.interfaces import Concept
from bench.judges.mini import MiniJudge
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage


@pytest.fixture
def images(model: TextToImage) -> torch.Tensor:
    return model.sample(["a red star", "a blue fish"], [1, 2], Sampler(steps=6)).images_B3HW


def test_tensors_pictures_and_files_score_alike(
    model: TextToImage, images: torch.Tensor, concepts: Mapping[str, Concept], tmp_path: Path
) -> None:
    arrays = [(i.movedim(0, 2) * 255).round().byte().numpy() for i in images]
    for k, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{k}.png")
    given: list[Any] = [
        images, arrays, [Image.fromarray(a) for a in arrays], [tmp_path / "0.png", str(tmp_path / "1.png")]
    ]  # fmt: skip
    tables = [judge(one, "star", model=model) for one in given]
    for table in tables[1:]:
        np.testing.assert_allclose(table.score, tables[0].score, atol=1e-5)
    assert tables[0].shown.tolist() == [True, False]
    direct = MiniJudge().scores((images * 255).round() / 255, concepts["star"])[:, 0]
    np.testing.assert_allclose(tables[0].score, direct.numpy(), atol=1e-6)


def test_several_judges_and_labels(model: TextToImage, images: torch.Tensor) -> None:
    judges: list[Any] = ["mini_judge", {"clip_zero_shot": {"template": "something, as a {}"}}]
    table = judge(images, "star", judges, model=model)
    assert len(table) == 4
    assert list(table.columns) == [
        "image",
        "judge",
        "label",
        "score",
        "threshold",
        "counts",
        "shown",
    ]
    assert table.judge.nunique() == 2
    assert table.counts.all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "at least one, got none"),
        (torch.zeros(0, 3, 64, 64), r"expected a tensor \[B, 3, H, W\]"),
        (torch.zeros(3, 64, 64), r"expected a tensor \[B, 3, H, W\]"),
        (torch.full((1, 3, 64, 64), 255.0), r"values in \[0, 1\], got 255 to 255"),
        (torch.full((1, 3, 64, 64), float("nan")), r"values in \[0, 1\]"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], "expected one size"),
        ([np.zeros((8, 8), np.uint8)], "expected bytes"),
        (["/nowhere.png"], "not a readable image"),
    ],
)
def test_what_is_no_picture_is_told(given: object, said: str, model: TextToImage) -> None:
    with pytest.raises(UsageError, match=said):
        judge(given, "star", model=model)  # type: ignore[arg-type]


def test_a_judge_that_does_not_know_the_concept_is_told(images: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="class of the head 'object'"):
        judge(images, "unicorn")
