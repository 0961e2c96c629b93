"""MACE: its equations, its tokens and its loss on small numbers, and its edit of the miniature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept, Context, Rng, Role
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.attention import attention_maps
from bench.toolkit.images import images_of, latents_of
from methods.mace import MACE, away, focal
from methods.shared.refinement import aligned, refined

RNG = Rng(("mace",))
STAR = Concept(text="star", neighbours=("triangle",))
QUICK = MACE.preset("mini", lam=10.0, **MACE.quick)
EYE = torch.eye(4, dtype=torch.float64)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("mace", *shape), dtype=torch.float64)


# -- the equations -------------------------------------------------------------------------------


def test_a_matrix_refined_by_hand() -> None:
    # x = 2 e1 and lam = 1: W' x = (lam W x + |x|^2 W x') / (lam + |x|^2) = 0.2 W x + 0.8 W x'.
    W, x, other = drawn(3, 4), 2 * EYE[0], drawn(5, 4)[4]
    found = refined(W, W @ torch.outer(other, x), torch.outer(x, x), 1.0)
    torch.testing.assert_close(found @ x, 0.2 * W @ x + 0.8 * W @ other)
    torch.testing.assert_close(found[:, 1:], W[:, 1:])


def test_without_lam_it_is_exact_where_something_was_seen_and_w_elsewhere() -> None:
    W, x, other = drawn(3, 4), drawn(2, 4), drawn(5, 4)[:2]
    found = refined(W, W @ other.T @ x, x.T @ x, 0.0)
    torch.testing.assert_close(found @ x.T, W @ other.T)
    beside = torch.linalg.svd(x).Vh[2:]
    torch.testing.assert_close(found @ beside.T, W @ beside.T)


def test_what_is_preserved_holds_the_matrix_back() -> None:
    W, x, other, kept = drawn(3, 4), drawn(1, 4), drawn(6, 4)[:1], drawn(2, 4)
    C = 1e6 * kept.T @ kept
    found = refined(W, W @ (other.T @ x + C), x.T @ x + C, 1e-3)
    torch.testing.assert_close(found @ kept.T, W @ kept.T, atol=1e-3, rtol=0)


def test_a_fusion_of_nothing_changes_nothing() -> None:
    W, x = drawn(3, 4), drawn(7, 4)
    torch.testing.assert_close(refined(W, W @ x.T @ x, x.T @ x, 10.0), W)


def test_tokens_are_aligned_around_the_concept() -> None:
    start, end = 90, 91
    one = [start, 1, 2, 3, 7, end]  # "an image of ship"
    two = [start, 1, 2, 3, 8, 9, end]  # "an image of the ground"
    old, new = aligned(one, two, 77)
    assert old[:5] == [0, 1, 2, 3, 5]
    assert new[:5] == [0, 1, 2, 3, 6]
    assert len(old) == len(new) == 5 + 77 - 7
    assert (old[5], old[-1]) == (6, 75)
    assert (new[5], new[-1]) == (7, 76)
    assert aligned(one, one, 8) == (list(range(8)), list(range(8)))
    old, new = aligned([start, 7, 4, end], [start, 8, 4, end], 6)
    assert old == new == [0, 2, 3, 4, 5]


def test_most_timesteps_are_focal() -> None:
    weights, t = focal(1000), torch.arange(1000, dtype=torch.float64)
    assert float(weights.sum()) == pytest.approx(1)
    mean = float((weights * t).sum())
    assert mean == pytest.approx(300, abs=0.5)
    assert float((weights * (t - mean).square()).sum().sqrt()) == pytest.approx(68, abs=0.5)
    assert float(weights[200:401].sum()) == pytest.approx(0.86, abs=0.01)
    assert int(focal(100).argmax()) == 30


def test_the_loss_is_a_norm_for_each_layer() -> None:
    maps = {"one": torch.ones(1, 2, 3, 4), "two": 2 * torch.ones(1, 2, 3, 4)}
    assert float(away(maps, torch.ones(1, 4))) == pytest.approx(3 * 24**0.5)
    said = torch.tensor([[0.0, 1, 0, 0]])
    assert float(away({"one": maps["one"]}, said)) == pytest.approx(6**0.5)
    both = {"one": torch.cat([maps["one"], maps["two"]])}
    assert float(away(both, said.repeat(2, 1))) == pytest.approx(1.5 * 6**0.5)


# -- the method ----------------------------------------------------------------------------------


def test_it_looks_away_from_the_name_the_end_and_the_padding(model: TextToImage) -> None:
    places = MACE._places(model, STAR, "a picture of a star at night").tolist()
    ids = model.tokenize(["a picture of a star at night"])[0].tolist()
    name, end = model.words.ids("star"), ids.index(model.end_of_text)
    assert [ids[k] for k in range(end) if places[k]] == name
    assert places[end:] == [1.0] * (model.length - end)
    assert places[0] == 0


def test_adapters_make_pixels_look_away(model: TextToImage) -> None:
    method = QUICK.model_copy(update={"iterations": 12, "lr": 1e-2, "batch_size": 4, "images": 4})
    found = method._adapters(model, model, STAR, Context(RNG))
    changed = model.with_added({n: v.float() for n, v in found.items()})
    prompts = method._prompts(STAR, "star")[:4]
    said = torch.stack([MACE._places(model, STAR, p) for p in prompts])
    clean = latents_of(
        model, images_of(model, prompts, range(4), Sampler(steps=4, guidance_scale=3.0))
    )
    noise, t = torch.randn(clean.shape, generator=generator_for("mace")), torch.tensor([300] * 4)
    noisy = model.schedule.add_noise(clean, noise, t)

    def looks(of: TextToImage) -> float:
        with torch.no_grad():
            _, maps = attention_maps(of, noisy, t, of.encode(prompts))
        return float(away(maps, said))

    assert looks(changed) < 0.9 * looks(model)


def test_without_adapters_what_stays_is_the_refined_matrix(model: TextToImage) -> None:
    # lr is so small that B stays at nothing: the fusion gives back W', whose words say "triangle".
    method = QUICK.model_copy(update={"iterations": 1, "lr": 1e-30, "preserve_scale": 0.0})
    edited = method(model, [STAR], rng=RNG)
    wanted, seen = method._around(model, [STAR])
    name = method.parameters(model)[0]
    W = model.parameter(name).double()
    torch.testing.assert_close(
        edited.parameter(name).double(), refined(W, W @ wanted, seen, 10.0), atol=1e-6, rtol=1e-4
    )


def test_s_counts_twice_in_the_first_step_as_released(model: TextToImage) -> None:
    name = QUICK.parameters(model)[0]
    W = model.parameter(name).double()
    stay = 10.0 * torch.eye(W.shape[1], dtype=W.dtype)
    for scaled, s in (("twice", 1e-4), ("once", 1e-2)):
        method = QUICK.model_copy(update={"preserve_scale": 1e-2, "scaled": scaled})
        kept = method._kept(model, [STAR])
        found = method._first(model, [STAR], {name: W}, kept)[name]
        wanted, seen = method._around(model, [STAR])
        torch.testing.assert_close(found @ (stay + seen + s * kept), W @ (stay + wanted + s * kept))


def test_keys_and_values_alone_change(model: TextToImage) -> None:
    edited = QUICK(model, [STAR, Concept(text="house", guide="sky")], rng=RNG)
    assert sorted(edited.weights) == sorted(model.having(Role.TEXT_KEYS_AND_VALUES))


def test_presets_are_as_published() -> None:
    fields = ("lam", "preserve_scale", "lr", "iterations", "times", "images", "rank", "scaled")
    found = {name: tuple(getattr(MACE.preset(name), f) for f in fields) for name in MACE.presets}
    assert found["object-nomask"] == (1e3, 0.0, 1e-5, 50, "focal", 8, 1, "twice")
    for name in ("celebrities-nomask", "style"):
        assert found[name] == (0.0, 1e-4, 1e-4, 50, "focal", 8, 1, "twice")
    assert found["explicit-nomask"] == (0.0, 7e-7, 1e-5, 120, "uniform", 8, 1, "twice")
    assert MACE.preset("style").instead == "art"
