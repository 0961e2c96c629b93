"""Concept Ablation: its loss, captions and augmentation on small numbers, and its gradient on the miniature."""

from __future__ import annotations

import pytest
import torch

from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng, Role
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import Optimiser
from methods import concept_ablation
from methods.concept_ablation import (
    ConceptAblation,
    masked_loss,
    scaled,
    start_detached,
    targets,
)

RNG = Rng(("ablation",))
STYLE = Concept(text="watercolour", family="style")
STAR = Concept(text="star")


def test_the_mask_is_summed_once_for_all_channels() -> None:
    one, mask = torch.ones(1, 4, 2, 2), torch.ones(1, 2, 2)
    assert float(masked_loss(one, torch.zeros_like(one), mask)) == 4.0
    mask[0, 0] = 0  # what it leaves out counts on neither side
    one[0, :, 0] = 100
    assert float(masked_loss(one, torch.zeros_like(one), mask)) == 4.0


def test_rows_count_alike_whatever_they_fill() -> None:
    predicted, masks = torch.zeros(2, 4, 2, 2), torch.ones(2, 2, 2)
    predicted[0] = 1
    masks[1, 0, 0] = 0
    assert float(masked_loss(predicted, torch.zeros_like(predicted), masks)) == 2.0


def test_the_captions_of_each_recipe() -> None:
    assert targets(Concept(text="grumpy cat"), "cat", "a cat at night", "object") == (
        "a grumpy cat at night",
    )
    after, before, again = targets(STYLE, "painting", "a painting of a house", "style")
    assert after == "a painting of a house, in the style of watercolour"
    assert before == again == "in the style of watercolour, a painting of a house"
    three = targets(Concept(text="nudity"), "person", "a person by the sea", "unsafe")
    assert len(set(three)) == 3
    assert all("nudity" in said and "a person by the sea" in said for said in three)


def test_an_image_that_is_not_scaled_has_a_border_without_loss() -> None:
    image = torch.rand(3, 32, 32, generator=generator_for("ablation"))
    found = scaled(image, 8, generator_for("ablation"), augment="none")
    assert torch.equal(found.image_3HW, image)
    assert found.words == ""
    assert found.mask_hw.sum() == 36
    assert found.mask_hw[1:-1, 1:-1].all()


def test_scaled_images_lie_where_the_mask_is() -> None:
    image = torch.ones(3, 48, 48)
    sizes = set()
    for k in range(60):
        found = scaled(image, 12, generator_for("ablation", k), augment="scale")
        assert found.image_3HW.shape == image.shape
        filled = found.image_3HW[0] > 0.75
        size = int(filled.sum() ** 0.5)
        sizes.add(size)
        inside = found.mask_hw.bool().repeat_interleave(4, 0).repeat_interleave(4, 1)
        assert filled[inside].all()
        assert found.mask_hw.any()
        if found.words:
            assert found.words.startswith(("far", "very")) == (size < 0.6 * 48)
        else:
            assert 0.6 * 48 <= size <= 48
    assert min(sizes) >= 16
    assert {48} < sizes


def test_no_gradient_passes_the_start_token(model: TextToImage) -> None:
    name = model.having(Role.TEXT_VALUES)[0]
    weight = model.parameter(name).clone().requires_grad_()
    live = model.with_weights({name: weight})
    live.weights[name].requires_grad_()
    states = model.encode(["a star"]).detach()
    rest = states.states_BLD.clone()
    rest[:, 1:] = 0  # the start token alone says something
    noise = torch.randn(1, *model.latent_shape, generator=generator_for("ablation"))

    def gradient() -> torch.Tensor:
        of = live.weights[name]
        out = live.denoise(noise, torch.tensor([500]), states.with_states(rest)).square().sum()
        return torch.autograd.grad(out, of)[0]

    assert float(gradient().abs().max()) > 0
    with start_detached(model):
        assert float(gradient().abs().max()) == 0
    assert float(gradient().abs().max()) > 0, "the hooks are gone"


def test_a_concept_that_is_its_anchor_has_nothing_to_learn(model: TextToImage) -> None:
    method = ConceptAblation(images=2, sampling_steps=2, anchor="star", batch_size=2)
    gallery = method._gallery(model, Concept(text="star"), RNG)
    rows = [(gallery, 0), (gallery, 1)]
    assert float(method._loss(model, rows, generator_for("ablation"))) == 0.0
    other = method._gallery(model, Concept(text="house"), RNG)
    assert other.captions == gallery.captions
    assert float(method._loss(model, [(other, 0)], generator_for("ablation"))) > 0


@pytest.mark.parametrize(("text", "prior"), [("red star", True), ("house", False)])
def test_the_prior_counts_where_the_concept_names_its_anchor(
    model: TextToImage, text: str, prior: bool
) -> None:
    method = ConceptAblation(images=1, sampling_steps=2, anchor="star", prior="if-named")
    gallery = method._gallery(model, Concept(text=text), RNG)
    assert method._has_prior([gallery]) == prior
    alone = method.model_copy(update={"prior": "never"})
    losses = [
        float(m._loss(model, [(gallery, 0)], generator_for("ablation"))) for m in (method, alone)
    ]
    assert (losses[0] != losses[1]) == prior


def test_the_noise_based_variant_aims_at_the_noise(model: TextToImage) -> None:
    method = ConceptAblation(images=1, sampling_steps=2, anchor="star", variant="noise")
    gallery = method._gallery(model, Concept(text="star"), RNG)
    loss = float(method._loss(model, [(gallery, 0)], generator_for("ablation")))
    assert loss > 0, "the anchor's own prediction is no longer the target"


def test_presets_are_as_published() -> None:
    fields = (
        "iterations",
        "batch_size",
        "lr",
        "part",
        "prior",
        "augment",
        "images",
        "guidance_scale",
    )
    found = {
        name: tuple(getattr(ConceptAblation.preset(name), f) for f in fields)
        for name in ConceptAblation.presets
    }
    assert found["style"] == (100, 8, 1.6e-5, "keys-and-values", "never", "none", 1000, 6.0)
    assert found["object"] == (100, 8, 1.6e-5, "keys-and-values", "if-named", "scale", 1000, 6.0)
    assert found["nudity"] == (400, 8, 6.4e-5, "attention", "always", "none", 1000, 6.0)


def test_captions_have_to_name_the_anchor(model: TextToImage) -> None:
    for fields in ({"anchor": ""}, {"anchor": "cat", "captions": ("a dog",)}):
        method = ConceptAblation(images=2, sampling_steps=2, **fields)
        with pytest.raises(UsageError, match="expected captions that name the anchor"):
            method._gallery(model, STAR, RNG)


@pytest.mark.parametrize(("anchor", "times"), [("star", 2), ("heart", 1)])
def test_the_rate_doubles_with_a_prior_that_is_named(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch, anchor: str, times: int
) -> None:
    rates = []

    def tuned(
        live: TextToImage, names: list[str], loss: object, how: Optimiser, **_: object
    ) -> object:
        rates.append(how.lr)
        return {}

    monkeypatch.setattr(concept_ablation, "tune", tuned)
    method = ConceptAblation.preset("object", images=2, sampling_steps=2, anchor=anchor)
    method(model, [STAR], rng=RNG)
    assert rates == [times * 1.6e-5]


def test_a_style_without_an_anchor_starts_from_plain_captions(model: TextToImage) -> None:
    method = ConceptAblation.preset("mini", images=2)
    gallery = method._gallery(model, STYLE, RNG)
    assert not any("watercolour" in caption for caption in gallery.captions)
    said = targets(STYLE, gallery.anchor, gallery.captions[0], gallery.recipe, method.styled)
    assert said[0] == gallery.captions[0] + ", as a watercolour"
