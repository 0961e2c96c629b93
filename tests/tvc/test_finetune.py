from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.interfaces import Concept, Rng, Role
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import Optimiser, timesteps, tune
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


def test_checkpointing_takes_the_gradient_at_the_values_that_are_laid_over(
    model: TextToImage,
) -> None:
    """Recomputed blocks could read the networks' own values, which are others from the second step on."""
    names = model.having(Role.DENOISER)
    moved = model.with_weights({name: 1.1 * model.parameter(name) for name in names})
    noisy = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    told, t = model.encode(["a heart", ""]), torch.tensor([300, 700])

    def slopes(of: TextToImage, *, checkpointing: bool) -> Tensor:
        """By one plain step down the slope of length 1."""
        found = tune(
            of, names, lambda live, step: live.denoise(noisy, t, told).square().mean(),
            Optimiser(1, 1.0, "sgd", checkpointing=checkpointing),
        )  # fmt: skip
        return torch.cat([(of.parameter(n) - found[n]).flatten() for n in names]).detach()

    wanted, plain = slopes(moved, checkpointing=False), slopes(model, checkpointing=False)
    assert (slopes(moved, checkpointing=True) - wanted).norm() < 1e-3 * wanted.norm()
    assert (plain - wanted).norm() > 0.05 * wanted.norm()  # those of the values below


def test_checkpointing_gives_the_same_vector(
    model: TextToImage, concepts: Mapping[str, Concept], images: Tensor
) -> None:
    how = replace(SMALL, steps=2)
    plain, saving = (
        fine_tune(
            model, concepts["heart"], images, replace(how, checkpointing=kept), rng=Rng(("t",))
        )
        for kept in (False, True)
    )
    # Adam takes a gradient of nearly nothing by its sign, so single entries may differ.
    apart = sum((saving.deltas[n] - delta).square().sum() for n, delta in plain.deltas.items())
    assert apart < 0.05**2 * sum(delta.square().sum() for delta in plain.deltas.values())
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
