from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept, Judge, UtilityBatch
from bench.metrics.accuracy import Accuracy
from bench.metrics.clip_score import ClipScore
from bench.metrics.drift import Drift
from bench.mini.captions import corpus
from bench.mini.tokenizer import train_tokenizer
from bench.mini.train.clip import new_clip
from bench.toolkit.clip import load_clip

COLOURS = {name: Concept(text=name, family="colour") for name in ("red", "green", "blue")}


class Colour(Judge):
    """How much of a primary colour an image has; its last column counts for nothing."""

    name: ClassVar[str] = "colour"
    calls: ClassVar[list[tuple[str, int]]] = []

    def labels(self, concept: Concept) -> tuple[str, ...]:
        return ("red", "green", "blue", "any")

    def counts(self, concept: Concept) -> tuple[str, ...]:
        return (concept.text,)

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        if concept.text not in COLOURS:
            raise ValueError(f"unknown: {concept.text}")
        self.calls.append((concept.text, len(images_B3HW)))
        return F.pad(images_B3HW.mean((2, 3)), (0, 1), value=1.0)


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator_for("images", *shape))


def batch(
    edited: Tensor,
    base: Tensor | None = None,
    *,
    concepts: list[Concept] | None = None,
    prompts: list[str] | None = None,
    judge: Judge | None = None,
) -> UtilityBatch:
    n = len(edited)
    return UtilityBatch(
        prompts=prompts or [f"a star {i}" for i in range(n)],
        concepts=concepts or [COLOURS["red"]] * n,
        images_B3HW=edited,
        base_images_B3HW=edited if base is None else base,
        judge=judge or Colour(),
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    network = new_clip(train_tokenizer(corpus(), folder, merges=100, length=16))
    generator = generator_for("weights")
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    network.save_pretrained(folder)
    half = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(half))
    return str(folder)


def test_directions_and_names() -> None:
    metrics = (Accuracy(), ClipScore(), Drift())
    assert [m.name for m in metrics] == ["accuracy", "clip_score", "drift"]
    assert [m.higher_is_better for m in metrics] == [True, True, False]


# --- accuracy


def painted(*colours: str) -> Tensor:
    """Images of one colour each."""
    rows = [[float(c == colour) for c in COLOURS] for colour in colours]
    return torch.tensor(rows)[:, :, None, None].expand(-1, -1, 8, 8)


def test_accuracy_known_answer() -> None:
    asked = [COLOURS[c] for c in ("red", "green", "red", "blue", "green")]
    drawn = painted("red", "green", "blue", "red", "green")
    values = Accuracy().values(batch(drawn, concepts=asked))
    assert values.dtype == torch.float32
    assert values.tolist() == [1, 1, 0, 0, 1]


def test_accuracy_calls_the_judge_once_a_concept() -> None:
    asked = [COLOURS[c].model_copy() for c in ("red", "green", "red", "red")]
    Colour.calls.clear()
    Accuracy().values(batch(images(4, 3, 8, 8), concepts=asked))
    assert Colour.calls == [("red", 3), ("green", 1)]


def test_accuracy_keeps_raw_scores_and_tells_the_threshold_of_the_judge() -> None:
    x = torch.full((2, 3, 8, 8), 0.25)
    x[1] = 0.125
    judge = Colour(threshold=0.25)
    assert Accuracy().values(batch(x, judge=judge)).tolist() == [0.25, 0.125]
    assert Accuracy().threshold(judge) == 0.25
    assert ClipScore().threshold(judge) is None


def test_accuracy_without_a_judge_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected the judge of record, got none"):
        Accuracy().values(replace(batch(images(1, 3, 8, 8)), judge=None))


def test_accuracy_of_an_unknown_concept_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown: pink"):
        Accuracy().values(batch(images(1, 3, 8, 8), concepts=[Concept(text="pink")]))


# --- CLIP score


def test_clip_score_is_the_cosine(clip: str) -> None:
    x, prompts = images(4, 3, 64, 64), ["a star", "a fish", "a moon", "a house"]
    values = ClipScore(clip=clip).values(batch(x, prompts=prompts))
    towers = load_clip(clip)
    expected = F.cosine_similarity(towers.image_features(x), towers.text_features(prompts))
    torch.testing.assert_close(values, expected)
    assert values.abs().max() <= 1


def test_clip_score_rows_do_not_depend_on_the_batch(clip: str) -> None:
    x, prompts = images(4, 3, 64, 64), ["a star", "a fish", "a moon", "a house"]
    metric = ClipScore(clip=clip)
    together = metric.values(batch(x, prompts=prompts))
    for row in range(4):
        alone = metric.values(batch(x[row : row + 1], prompts=[prompts[row]]))
        torch.testing.assert_close(alone[0], together[row])


# --- drift


def test_drift_of_identical_images_is_zero(clip: str) -> None:
    x = images(5, 3, 64, 64)
    assert Drift(clip=clip).values(batch(x, x.clone())).tolist() == [0] * 5
    assert Drift(space="pixel").values(batch(x, x.clone())).tolist() == [0] * 5


def test_pixel_drift_known_answer() -> None:
    black, grey = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.25)
    half = black.clone()
    half[..., :4] = 1
    values = Drift(space="pixel").values(
        batch(torch.cat([black, grey, half]), torch.cat([black + 1, black, black]))
    )
    torch.testing.assert_close(values, torch.tensor([1, 0.25, 0.5]))


def test_clip_drift_is_one_minus_the_cosine(clip: str) -> None:
    edited, base = images(4, 3, 64, 64), images(4, 3, 64, 64).flip(1) ** 3
    values = Drift(clip=clip).values(batch(edited, base))
    towers = load_clip(clip)
    expected = 1 - F.cosine_similarity(towers.image_features(edited), towers.image_features(base))
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-4)
    assert 0 < values.min() and values.max() <= 2
    torch.testing.assert_close(values, Drift(clip=clip).values(batch(base, edited)))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json"]
)
def test_what_a_clip_of_its_own_is_made_of_is_in_drifts_digest(tmp_path: Path, name: str) -> None:
    for file in ("model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes(b"one")
    mine, pixel = Drift(clip=str(tmp_path)), Drift(clip=str(tmp_path), space="pixel")
    before = mine.digest, pixel.digest, Drift().digest
    (tmp_path / name).write_bytes(b"other")
    assert mine.digest != before[0]
    assert (pixel.digest, Drift().digest) == before[1:]  # they do not look through it
    assert Drift().identity()["files"] == ClipScore().identity()["files"]
    assert "files" not in Drift(space="pixel").identity()


def test_drift_rows_do_not_depend_on_the_batch(clip: str) -> None:
    edited, base = images(4, 3, 64, 64), images(4, 3, 64, 64) ** 2
    for metric in (Drift(clip=clip), Drift(space="pixel")):
        rows = [metric.values(batch(e[None], b[None])) for e, b in zip(edited, base, strict=True)]
        torch.testing.assert_close(
            metric.values(batch(edited, base)), torch.cat(rows), atol=1e-6, rtol=1e-4
        )


def test_drift_refuses_images_of_two_shapes() -> None:
    with pytest.raises(ValueError, match="images of both models of one shape"):
        Drift(space="pixel").values(batch(images(2, 3, 8, 8), images(1, 3, 8, 8)))
