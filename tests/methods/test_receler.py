"""Receler: its mask, its losses and its search on small numbers, and its adapters in the miniature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng, Role
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from methods.receler import Receler, masks_of, outside, put
from methods.shared.erasers import MAPS, Erasers, added, fresh

RNG = Rng(("receler",))
STAR = Concept(text="star")
QUICK = Receler.preset("mini", **Receler.quick)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("receler", *shape))


# -- the parts -----------------------------------------------------------------------------------


def test_the_mask_is_where_the_mean_map_is_above_a_tenth_of_its_range() -> None:
    # One layer of 2 x 2 pixels, one head, two tokens; the concept is the second.
    looks = torch.tensor([0.0, 0.05, 0.2, 1.0]) * 0.5 + 0.1
    maps = {"a": torch.stack([1 - looks, looks], dim=-1)[None, None]}
    found = masks_of(maps, [range(1, 2)], 0.1)
    assert found["a"].tolist() == [[False, False, True, True]]


def test_the_mask_comes_from_the_second_coarsest_size_and_is_drawn_at_every_size() -> None:
    sizes = {"fine": 64, "middle": 16, "other": 16, "coarse": 4}
    maps = {name: drawn(1, 2, pixels, 3).softmax(-1) for name, pixels in sizes.items()}
    found = masks_of(maps, [range(1, 3)], 0.5)
    mean = torch.stack([maps[n][..., 1:].mean((1, 3)) for n in ("middle", "other")]).mean(0)
    own = (mean - mean.min()) / (mean.max() - mean.min()) >= 0.5
    assert torch.equal(found["middle"], own)
    assert {name: m.shape[1] for name, m in found.items()} == sizes
    fine, coarse = found["fine"].view(8, 8), found["coarse"].view(2, 2)
    assert torch.equal(fine[::2, ::2].flatten(), own[0])
    assert torch.equal(coarse, own.view(4, 4)[::2, ::2])


def test_what_is_added_outside_of_the_mask_counts() -> None:
    twos = torch.full((1, 4, 3), 2.0)
    assert float(outside(twos, torch.tensor([[True, False, False, False]]))) == 4.0
    assert float(outside(twos, torch.ones(1, 4, dtype=torch.bool))) == 0.0
    rows = torch.cat([twos, 0 * twos])
    assert float(outside(rows, torch.zeros(2, 4, dtype=torch.bool))) == 2.0


def test_soft_states_stand_behind_the_own_tokens_as_far_as_there_is_room() -> None:
    states, soft = drawn(2, 6, 3), drawn(4, 3)
    told = put(Conditioning(states), [soft, soft], [1, 3])
    torch.testing.assert_close(told.states_BLD[0], torch.cat([states[0, :2], soft]))
    torch.testing.assert_close(told.states_BLD[1], torch.cat([states[1, :4], soft[:2]]))
    assert told.ids == ()
    four = put(Conditioning(states), [soft[:2], soft[:2]], [1, 1])
    torch.testing.assert_close(four.states_BLD[0, 4:], states[0, 4:])


def test_a_fresh_adapter_changes_nothing_and_learns_by_its_second_half_first(
    model: TextToImage,
) -> None:
    layers = model.layers(Role.CROSS_ATTENTION)
    widths = {n: len(model.parameter(f"{n}.to_out.0.weight")) for n in layers}
    tensors = fresh(widths, 8, generator_for("receler"))
    assert len(tensors) == 4 * len(layers)
    limit = tensors[f"{layers[0]}/down.weight"].abs().max() * widths[layers[0]] ** 0.5
    assert 0.9 < float(limit) <= 1
    edited = model.with_hook(Erasers(), tensors)
    told, x = model.encode(["a star"]), drawn(1, *model.latent_shape)
    assert torch.equal(edited.denoise(x, 500, told), model.denoise(x, 500, told))
    leaves = {n: w.requires_grad_() for n, w in tensors.items()}
    out = added(layers[0], drawn(1, 4, widths[layers[0]]), leaves).sum()
    down, _, up, _ = (leaves[f"{layers[0]}/{name}"] for name in MAPS)
    grads = torch.autograd.grad(out, [down, up])
    assert float(grads[0].abs().max()) == 0
    assert float(grads[1].abs().max()) > 0


def test_an_adapter_is_a_network_of_two_layers_behind_the_output() -> None:
    shapes = ((5, 3), (5,), (3, 5), (3,))
    tensors = {f"x/{name}": drawn(*shape) for name, shape in zip(MAPS, shapes, strict=True)}
    down, up = torch.nn.Linear(3, 5), torch.nn.Linear(5, 3)
    for layer, name in ((down, "down"), (up, "up")):
        layer.load_state_dict({k: tensors[f"x/{name}.{k}"] for k in ("weight", "bias")})
    out = drawn(2, 4, 3)
    with torch.no_grad():
        expected = up(torch.nn.GELU()(down(out)))
    torch.testing.assert_close(added("x", out, tensors), expected)


# -- the method ----------------------------------------------------------------------------------


def test_presets_are_as_published() -> None:
    for name, steps in (("paper", 50), ("release", 0)):
        found = Receler.preset(name)
        assert found.attack_steps == steps
        assert (found.rank, found.iterations, found.lr, found.batch_size) == (128, 500, 3e-4, 1)
        assert (found.regularisation, found.threshold, found.eta) == (0.1, 0.1, 1.0)
        assert (found.attack_states, found.attack_lr, found.attack_decay) == (16, 0.1, 0.1)
        assert (found.start_guidance, found.sampling_steps) == (3.0, 50)


def test_the_adapters_of_stable_diffusion_have_as_many_values_as_published() -> None:
    widths = {f"{k}": d for k, d in enumerate([320] * 5 + [640] * 5 + [1280] * 6)}
    tensors = fresh(widths, Receler().rank, generator_for("receler"))
    assert (len(tensors), sum(w.numel() for w in tensors.values())) == (64, 3_209_408)


def test_the_search_enters_and_its_absence_shows(model: TextToImage) -> None:
    kinds = [QUICK.model_copy(update={"attack_steps": n}) for n in (0, 1, 3)]
    digests = {method(model, [STAR], rng=RNG).digest for method in kinds}
    assert len(digests) == 3, "states that are searched for are not trained on"


def test_what_is_trained_is_kept_with_the_edit(model: TextToImage, tmp_path: Path) -> None:
    edited = QUICK(model, [STAR, Concept(text="house")], rng=RNG)
    (one,) = edited.hooks
    assert not edited.weights
    moved = [n for n, w in one.tensors.items() if n.endswith("/up.weight") and w.abs().max() > 0]
    assert len(moved) == len(model.layers(Role.CROSS_ATTENTION))
    edited.save_edit(tmp_path)
    assert model.load_edit(tmp_path).digest == edited.digest


@pytest.mark.slow
def test_it_moves_the_concept_towards_the_target_and_spares_what_is_masked(
    model: TextToImage,
) -> None:
    """A strong regulariser adds less than none does, where the concept is not."""
    spread = []
    for weight in (0.0, 1000.0):
        method = QUICK.model_copy(update={"iterations": 6, "regularisation": weight})
        edited = method(model, [STAR], rng=RNG)
        told, x = model.encode(["star"]), drawn(2, *model.latent_shape)
        told = told.repeat(2)
        gap = edited.denoise(x, 700, told) - model.denoise(x, 700, told)
        spread.append(float(gap.square().mean()))
    assert 0 < spread[1] < spread[0]
