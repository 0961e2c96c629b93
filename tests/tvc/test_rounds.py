from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from bench.interfaces import Concept, Rng, bare
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from tvc.diverse_inversion import PRESETS as INVERSIONS
from tvc.finetune import concept_images
from tvc.method import TaskVectorErasure
from tvc.rounds import Round, adaptive_rounds
from tvc.sight import Sight
from tvc.strength import Estimate, Strength, smallest_alpha
from tvc.task_vector import TaskVector

SURROGATE = TaskVectorErasure().surrogate()
SAMPLER = Sampler(steps=3)
HOW = Strength(largest=1.0, tolerance=0.25, samples=4, screen=2, bar="worst", resamples=20)


def fading(model: TextToImage) -> TaskVector:
    """At strength 1 it takes the output layer away altogether: nothing is drawn."""
    names = ("unet.conv_out.weight", "unet.conv_out.bias")
    return TaskVector(model.backbone.digest, {n: model.parameter(n).float().clone() for n in names})


def begun(alpha: float, *, reached: bool = True) -> Estimate:
    return Estimate(alpha, alpha, alpha, reached, (), torch.zeros(0, 1, 128), {})


def played(
    model: TextToImage, concept: Concept, first: Estimate, steps: int, rounds: int
) -> list[Round]:
    vector, rng = fading(model), Rng(("t",))
    sight = Sight(
        concept.model_copy(update={"neighbours": concept.neighbours[:1]}), SAMPLER, SURROGATE
    )
    images = concept_images(model, sight, 4, rng=rng)
    search = replace(INVERSIONS["mini"], rows=2, draws=1, steps=steps, samples=1)
    return adaptive_rounds(
        lambda a: vector.subtracted(model, a) if a else model, sight, images, first, rounds=rounds,
        search=search, how=HOW, rng=rng,
    )  # fmt: skip


def test_an_edit_that_embeddings_get_through_is_made_stronger(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    rounds = played(model, bare(concepts["heart"]), begun(0.15), steps=12, rounds=2)
    assert rounds[0].passed
    assert [one.searched_at for one in rounds[1:]] == [one.estimate.alpha for one in rounds[:-1]]
    assert (
        0.15 == rounds[0].searched_at < rounds[0].estimate.alpha <= rounds[-1].estimate.alpha <= 1
    )
    assert len(rounds[0].found.inducing) == 2  # all rows count, whatever their rate
    model_of = {one.found.about["model"] for one in rounds}
    assert model.digest not in model_of  # searched on the edited models
    assert len(model_of) == len(rounds)


def test_a_round_that_finds_nothing_is_the_last_one(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    rounds = played(model, bare(concepts["heart"]), begun(1.0), steps=1, rounds=5)
    assert len(rounds) == 1
    assert not rounds[0].passed
    assert rounds[0].estimate.alpha == 1.0


def test_an_estimate_that_never_sufficed_is_left_alone(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    heart = bare(concepts["heart"])
    assert played(model, heart, begun(1.0, reached=False), steps=1, rounds=5) == []


@pytest.mark.parametrize("edge", [2.0, 2.1, 2.9, 7.9])
def test_a_search_from_a_known_strength_looks_at_none_below_it(edge: float) -> None:
    tried: list[float] = []

    def rate_at(alpha: float) -> float:
        tried.append(alpha)
        return 1.0 if alpha < edge else 0.0

    alpha, reached = smallest_alpha(rate_at, largest=8.0, tolerance=0.05, threshold=0.1, least=2.0)
    assert reached
    assert edge <= alpha <= edge + 0.05 * max(1.0, alpha)
    assert min(tried) == 2.0
    assert max(tried) <= max(2.0, 1.25 * edge)


def test_the_worst_is_held_to_the_threshold_itself() -> None:
    typical = Strength(threshold=0.05, samples=24, confidence=0.5)
    worst = replace(typical, bar="worst")
    assert typical.level(0.0, 16) == pytest.approx(3 / 24)  # the worst of sixteen at 5 %
    assert worst.level(0.0, 16) == worst.level(0.0, 1) == 0.05
    assert worst.level(0.2, 16) == 0.2  # no embedding can do better than false alarms
