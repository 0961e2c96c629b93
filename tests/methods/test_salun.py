"""SalUn: its mask on small numbers, and what may move on the miniature."""

from __future__ import annotations

import pytest
import torch

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of, latents_of
from bench.toolkit.tuning import Optimiser, tune
from methods.salun import SalUn, most_salient

RNG = Rng(("salun",))
STAR = Concept(text="star", neighbours=("triangle",))
QUICK = SalUn.preset("mini", **SalUn.quick)


def test_a_mask_computed_by_hand() -> None:
    slopes = {"a": torch.tensor([0.1, -5, 3]), "b": torch.tensor([[0.0, 2], [-0.2, 0]])}
    masks = most_salient(slopes, 0.5)  # int(3.5) of seven entries
    assert masks["a"].tolist() == [0, 1, 1]
    assert masks["b"].tolist() == [[0, 1], [0, 0]]
    assert all(mask.all() for mask in most_salient(slopes, 1.0).values())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.5, 0.99])
def test_of_equal_slopes_the_first_are_taken_as_a_stable_sort_takes_them(share: float) -> None:
    slopes = torch.randint(-3, 4, (500,), generator=generator_for(1)).float()
    kept = torch.zeros(500)
    kept[slopes.abs().argsort(descending=True, stable=True)[: int(share * 500)]] = 1
    assert torch.equal(most_salient({"a": slopes}, share)["a"], kept)


def test_what_the_mask_leaves_out_stays_to_the_bit(model: TextToImage) -> None:
    name = next(n for n in model.backbone.parameters if "conv_in" in n)
    mask = torch.zeros_like(model.parameter(name))
    mask[::2] = 1
    kept, moved = (
        tune(
            model, [name], lambda live, step: (live.parameter(name) - 7).square().sum(),
            Optimiser(5, 1e-2, "adam"), masks=masks,
        )[name] - model.parameter(name)
        for masks in ({name: mask}, None)
    )  # fmt: skip
    assert (kept[mask == 0] == 0).all()
    torch.testing.assert_close(kept[mask == 1], moved[mask == 1])
    assert (moved != 0).all()
    with pytest.raises(ValueError, match="no weight decay beside masks"):
        tune(
            model, [name], lambda live, step: live.parameter(name).sum(),
            Optimiser(1, 1e-2, weight_decay=0.1), masks={name: mask},
        )  # fmt: skip


def test_half_of_the_weights_move(model: TextToImage) -> None:
    masked = QUICK(model, [STAR], rng=RNG)
    free = QUICK.model_copy(update={"share": 1.0})(model, [STAR], rng=RNG)
    changed = {
        label: sum(int((value != model.parameter(n)).sum()) for n, value in of.weights.items())
        for label, of in (("masked", masked), ("free", free))
    }
    total = sum(model.parameter(n).numel() for n in QUICK.parameters(model))
    assert changed["masked"] <= total // 2
    assert changed["masked"] > total // 4
    assert changed["free"] > changed["masked"]


def test_the_concept_learns_what_is_drawn_instead(model: TextToImage) -> None:
    """Without a mask and without what remains, on images of the concept, its prediction goes where the other's is."""
    method = QUICK.model_copy(
        update={"alpha": 0.0, "share": 1.0, "epochs": 4, "batch_size": 8, "lr": 1e-5, "images": 8}
    )
    edited = method(model, [STAR], rng=RNG)
    clean = latents_of(
        model, images_of(model, ["a star"] * 4, range(4), Sampler(steps=4, guidance_scale=3.0))
    )
    noise = torch.randn(clean.shape, generator=generator_for("salun"))
    t = torch.tensor([200, 400, 600, 800])
    noisy = model.schedule.add_noise(clean, noise, t)

    def apart(of: TextToImage) -> float:
        star = of.denoise(noisy, t, of.encode(["a star"] * 4))
        other = model.denoise(noisy, t, model.encode(["a triangle"] * 4))
        return float((star - other).square().mean())

    with torch.no_grad():
        assert apart(edited) < 0.95 * apart(model)


def test_slopes_are_summed_with_their_sign() -> None:
    one, other = torch.tensor([1.0, 0.5]), torch.tensor([-1.0, 0.25])
    assert most_salient({"a": one + other}, 0.5)["a"].tolist() == [0, 1]


def test_what_is_drawn_instead_and_what_remains() -> None:
    assert SalUn()._instead(STAR) == "triangle"
    assert SalUn()._instead(Concept(text="star", guide="sky")) == "sky"
    assert SalUn(instead="a tree")._instead(STAR) == "a tree"
    assert SalUn()._remaining([STAR]) == []
    assert SalUn.preset("release")._instead(STAR) == "person wearing clothes"
    found = SalUn(remain=None, images=60, templates=("{}", "a {}"))._remaining([STAR])
    assert found[0] == "triangle"
    assert not any("star" in prompt for prompt in found)
    assert len(set(found)) > 40


def test_presets_are_as_published() -> None:
    fields = ("share", "epochs", "alpha", "lr", "batch_size", "images", "saliency_guidance")
    found = {name: tuple(getattr(SalUn.preset(name), f) for f in fields) for name in SalUn.presets}
    assert found["release"] == (0.5, 1, 0.1, 1e-5, 8, 800, 7.5)
    assert found["paper"] == (1.0, 1, 0.1, 1e-5, 8, 800, 7.5)
    assert found["object"] == (0.5, 5, 0.5, 1e-5, 8, 800, 7.5)
