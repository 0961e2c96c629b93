from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from bench.interfaces import Concept, Judge, Rng
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.wording import about
from tvc.contexts import MINI, SD, contexts_of
from tvc.method import TaskVectorErasure
from tvc.sight import Sight
from tvc.strength import (
    Estimate,
    Strength,
    _Look,
    _stricter,
    chance_level,
    estimate,
    prompt_set,
    smallest_alpha,
    strongest,
)
from tvc.task_vector import TaskVector

SURROGATE = TaskVectorErasure().surrogate()
SAMPLER = Sampler(steps=3)
"""In so few steps the miniature still draws what the surrogate sees."""


@pytest.mark.parametrize("edge", [0.3, 1.0, 1.7, 3.9])
def test_bisection_finds_the_edge(edge: float) -> None:
    tried: list[float] = []

    def rate_at(alpha: float) -> float:
        tried.append(alpha)
        return 1.0 if alpha < edge else 0.0

    alpha, reached = smallest_alpha(rate_at, largest=4.0, tolerance=0.05, threshold=0.1)
    assert reached
    assert edge <= alpha <= edge + 0.05 * max(1.0, alpha)
    assert max(tried) <= max(1.0, 2 * edge)


def test_a_threshold_that_is_never_met_is_told() -> None:
    assert smallest_alpha(lambda a: 1.0, largest=3.0, tolerance=0.1, threshold=0.0) == (3.0, False)


def test_an_edit_that_is_always_enough_needs_almost_none() -> None:
    alpha, reached = smallest_alpha(lambda a: 0.0, largest=3.0, tolerance=0.1, threshold=0.0)
    assert reached
    assert alpha <= 0.1


def test_the_level_of_chance_is_the_worst_of_several_binomials() -> None:
    assert chance_level(0.0, 16, 8, 0.95) == 0.0
    assert chance_level(1.0, 16, 8, 0.95) == 1.0
    # One embedding, one image: it fires with probability 0.04, so "none" covers 95 %; at 0.06 it does not.
    assert chance_level(0.04, 1, 1, 0.95) == 0.0
    assert chance_level(0.06, 1, 1, 0.95) == 1.0
    # 8 images: P(at most 2 of 8 | 0.06) = 0.9904, and to the 4th 0.96; to the 6th 0.94.
    assert chance_level(0.06, 4, 8, 0.95) == 2 / 8
    assert chance_level(0.06, 6, 8, 0.95) == 3 / 8


def fading(model: TextToImage) -> TaskVector:
    """At strength 1 it takes the output layer away altogether: nothing is drawn."""
    names = ("unet.conv_out.weight", "unet.conv_out.bias")
    return TaskVector(model.backbone.digest, {n: model.parameter(n).float().clone() for n in names})


def test_an_estimate_on_a_real_model(model: TextToImage, concepts: Mapping[str, Concept]) -> None:
    vector, heart = fading(model), concepts["heart"]
    how = Strength(largest=2.0, tolerance=0.25, samples=3, screen=2, resamples=50)

    found = estimate(
        lambda a: vector.subtracted(model, a) if a else model,
        Sight(heart, SAMPLER, SURROGATE),
        prompt_set(model, heart),
        how,
        rng=Rng(("t",)),
    )
    assert found.reached
    assert 0 < found.alpha <= 1.0
    assert found.low <= found.alpha <= found.high
    assert [a for a, *_ in found.curve] == sorted(a for a, *_ in found.curve)
    assert all(how.threshold <= level <= 1 for *_, level in found.curve)
    assert 0 < found.about["images"] <= 3 * len(found.curve)
    with pytest.raises(ValueError, match="other seeds and images"):
        found.check_disjoint(found.vectors_RVE)
    found.check_disjoint(torch.randn(2, 1, 128, generator=torch.Generator().manual_seed(0)))


def test_looking_at_a_few_images_first_changes_nothing(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    vector, heart = fading(model), concepts["heart"]

    def with_a_screen_of(images: int) -> Estimate:
        return estimate(
            lambda a: vector.subtracted(model, a) if a else model, Sight(heart, SAMPLER, SURROGATE),
            prompt_set(model, heart), Strength(largest=1.0, tolerance=0.25, samples=4, screen=images, resamples=20),
            rng=Rng(("t",)), contexts=("{}", "a red {}"),
        )  # fmt: skip

    few, whole = with_a_screen_of(2), with_a_screen_of(4)
    assert few.alpha == whole.alpha
    assert [a for a, *_ in few.curve] == [a for a, *_ in whole.curve]
    assert few.about["images"] < whole.about["images"] == 4 * len(whole.curve)
    assert few.about["contexts"] == ["{}", "a red {}"]
    # What was not settled by the first images was looked at in full.
    passed = [(a, worst) for a, worst, _, level in whole.curve if worst <= level]
    assert [(a, worst) for a, worst, _, level in few.curve if worst <= level] == passed


def test_the_surrogate_decides_half_way_to_what_the_concept_scores(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    def at(sensitivity: float) -> Judge:
        how = Strength(samples=8, sensitivity=sensitivity)
        sight = Sight(concepts["heart"], SAMPLER, SURROGATE)
        return _stricter(model, sight, ("{}",), how, Rng(("t",))).surrogate

    strict, lax = at(0.5), at(1.0)
    assert SURROGATE.threshold <= lax.threshold < strict.threshold < 1
    seeds = [Rng(("t",)).seed("own", k) for k in range(16)]
    images = model.sample(["heart"] * 16, seeds, SAMPLER).images_B3HW
    median = float(SURROGATE.scores(images, concepts["heart"]).amax(1).median())
    odds = torch.logit(
        torch.tensor([SURROGATE.threshold, strict.threshold, median], dtype=torch.float64)
    )
    assert odds[1] - odds[0] == pytest.approx(float(odds[2] - odds[1]), abs=0.2)


def test_an_embedding_at_the_level_passes() -> None:
    for shown in range(25):  # of 24 images, of which not all shares are exact
        row = (torch.arange(24) < shown)[None]
        assert _Look(row, 0.0, shown / 24).worst <= shown / 24
        assert _Look(row, 0.0, (shown - 1) / 24).worst > (shown - 1) / 24


def test_no_context_is_a_prompt_of_any_concept(concepts: Mapping[str, Concept]) -> None:
    tested = {text for c in concepts.values() for texts in c.prompts.values() for text in texts}
    tested |= {p.text for c in concepts.values() for p in c.utility}
    for c in concepts.values():
        asked = {context.replace("{}", c.text) for context in contexts_of(c.family, MINI)}
        assert not asked & tested


def test_a_context_that_does_not_fit_is_told_before_the_work(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    long = TaskVectorErasure(contexts={"object": ("a very " * 40 + "{}",)})
    with pytest.raises(ValueError, match="use a shorter template"):
        long(model, [concepts["heart"]], rng=Rng(("t",)))


def test_a_word_is_looked_at_in_the_contexts_of_its_family() -> None:
    assert contexts_of("style", {"style": ("as a {}", "{}")}) == ("as a {}", "{}")
    assert contexts_of("smell", MINI) == ("{}",)
    assert about("sketch", ("as a {}", "{}"), 3) == ["as a sketch", "sketch", "as a sketch"]
    for contexts in (MINI, SD):
        assert set(contexts) >= {"object", "character", "style"}
        TaskVectorErasure(contexts=contexts)  # each has one place
    with pytest.raises(ValueError, match=r"expected text with one \{\} and no other brace"):
        TaskVectorErasure(contexts={"style": ("as a sketch",)})
    with pytest.raises(ValueError, match="at least 1 item"):
        TaskVectorErasure(contexts={"style": ()})


def test_the_strongest_estimate_is_the_largest_and_one_that_never_sufficed_before_all() -> None:
    def of(alpha: float, *, reached: bool = True) -> Estimate:
        return Estimate(
            alpha=alpha, low=alpha, high=alpha, reached=reached, curve=(), vectors_RVE=torch.zeros(1, 1, 2), about={}
        )  # fmt: skip

    assert strongest([of(1.0), of(2.0), of(1.5)]).alpha == 2.0
    assert not strongest([of(12.0), of(12.0, reached=False)]).reached


def test_a_set_in_which_nothing_induces_the_concept_is_refused(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    nothing = replace(prompt_set(model, concepts["heart"]), rates_R=torch.zeros(1))
    with pytest.raises(ValueError, match="search longer"):
        estimate(
            lambda a: model, Sight(concepts["heart"], Sampler(steps=2), SURROGATE), nothing, Strength(),
            rng=Rng(("t",)),
        )  # fmt: skip
