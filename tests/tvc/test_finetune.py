from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.interfaces import Concept, Rng
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import timesteps
from methods.destroyed import Destroyed
from tvc.finetune import PRESETS, FineTune, concept_images, fine_tune
from tvc.method import TaskVectorErasure
from tvc.sight import Sight

SURROGATE = TaskVectorErasure().surrogate()

SMALL = FineTune(images=8, steps=25, lr=3e-4, batch_size=8, flip=False)


@pytest.fixture(scope="module")
def images(miniature: TextToImage, concepts: Mapping[str, Concept]) -> Tensor:
    return concept_images(
        miniature, Sight(concepts["heart"], Sampler(steps=3), SURROGATE), 8, rng=Rng(("t",))
    )


def empty_loss(model: TextToImage, images: Tensor) -> float:
    g = torch.Generator().manual_seed(5)
    clean = model.to_latents(images)
    noise = torch.randn(clean.shape, generator=g)
    t = timesteps(model, len(clean), g)
    with torch.no_grad():
        states = model.encode([""] * len(clean))
        eps = model.denoise(model.schedule.add_noise(clean, noise, t), t, states)
    return float((eps - noise).square().mean())


def test_the_model_learns_the_concept_without_a_caption(
    model: TextToImage, concepts: Mapping[str, Concept], images: Tensor
) -> None:
    vector = fine_tune(model, concepts["heart"], images, SMALL, rng=Rng(("t",)))
    assert empty_loss(vector.subtracted(model, -1.0), images) < 0.97 * empty_loss(model, images)
    assert empty_loss(vector.subtracted(model, 1.0), images) > empty_loss(model, images)
    assert all(n.startswith("unet.") for n in vector.deltas)
    assert len(vector.deltas) == len(
        [n for n in model.backbone.parameters if n.startswith("unet.")]
    )


def test_checkpointing_gives_the_same_vector(
    model: TextToImage, concepts: Mapping[str, Concept], images: Tensor
) -> None:
    how = replace(SMALL, steps=2)
    plain = fine_tune(model, concepts["heart"], images, how, rng=Rng(("t",)))
    saving = fine_tune(
        model, concepts["heart"], images, replace(how, checkpointing=True), rng=Rng(("t",))
    )
    for name, delta in plain.deltas.items():
        torch.testing.assert_close(saving.deltas[name], delta, rtol=1e-3, atol=1e-6)
    assert not model.backbone.unet.training
    assert not any(p.requires_grad for p in model.backbone.unet.parameters())


def test_the_conditional_variant_learns_under_the_name(
    model: TextToImage, concepts: Mapping[str, Concept], images: Tensor
) -> None:
    how = replace(SMALL, steps=2)
    one, other = (
        fine_tune(model, concepts["heart"], images, replace(how, caption=c), rng=Rng(("t",)))
        for c in ("empty", "concept")
    )
    assert any(not torch.equal(one.deltas[n], other.deltas[n]) for n in one.deltas)


def test_a_concept_that_the_base_cannot_draw_is_refused(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    nothing = Destroyed()(model, [concepts["star"]], rng=Rng(("t",)))
    with pytest.raises(ValueError, match="cannot draw cannot be erased"):
        concept_images(
            nothing, Sight(concepts["star"], Sampler(steps=3), SURROGATE), 6, rng=Rng(("t",))
        )


def test_the_published_constants() -> None:
    how = PRESETS["sd14-published"]
    assert (how.images, how.steps, how.lr, how.batch_size, how.caption) == (
        200,
        200,
        1e-5,
        16,
        "empty",
    )


def test_a_learning_rate_that_diverges_is_one_clear_error(
    model: TextToImage, concepts: Mapping[str, Concept], images: Tensor
) -> None:
    with pytest.raises((FloatingPointError, ValueError), match="lower"):
        fine_tune(model, concepts["heart"], images, replace(SMALL, lr=1e18), rng=Rng(("t",)))
