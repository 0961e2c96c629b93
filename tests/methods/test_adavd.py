"""AdaVD: its equations on small numbers, and its hook in the miniature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng, Role
from bench.model.hooks import Pass
from bench.model.text_to_image import TextToImage
from methods.adavd import AdaVD, ValueDecomposition, inverse_of

RNG = Rng(("adavd",))
STAR = Concept(text="star")


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("adavd", *shape), dtype=torch.float64)


def changed(
    rows_RLd: Tensor,
    concepts_nd: Tensor,
    u_Ld: Tensor | None = None,
    branches: int = 1,
    **fields: Any,
) -> Tensor:
    """The values that a hook makes of others; u are those of the empty prompt, which join them."""
    empty = torch.zeros(rows_RLd.shape[1]).to(rows_RLd) if u_Ld is None else u_Ld.norm(dim=-1)
    tensors = {"x/concepts": concepts_nd, "x/empty": empty}
    tensors["x/inverse"] = inverse_of(concepts_nd, empty)
    hook = ValueDecomposition(pairing="branch" if u_Ld is None else "joint", **fields)
    return hook.change("x", rows_RLd, rows_RLd, tensors, None, Pass("unet", branches=branches))


# -- the equations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "u_left", "v_left"),
    [
        # <x, y> = 3 and <y, y> = 5, so 0.6 of v* and of u goes.
        ({"shift": "none"}, (0.4, 0.0), (-0.2, 1.0)),
        # The cosine is 3 / sqrt(15) = 0.775, far below 0.93: s is 3.6e-7.
        ({"steepness": 100.0, "threshold": 0.93}, (1.0, 0.0), (1.0, 1.0)),
    ],
)
def test_a_pair_of_branches_computed_by_hand(
    fields: dict[str, Any], u_left: tuple[float, ...], v_left: tuple[float, ...]
) -> None:
    u, v, star = (torch.tensor(x, dtype=torch.float64) for x in ((1.0, 0), (1.0, 1), (2.0, 0)))
    rows = torch.stack([u.expand(2, 2), v.expand(2, 2)])
    out = changed(rows, star[None], u.expand(2, 2), branches=2, **fields)
    torch.testing.assert_close(out[:, 0], rows[:, 0])  # the start token
    expected = torch.tensor([u_left, v_left], dtype=torch.float64)
    torch.testing.assert_close(out[:, 1], expected, atol=1e-6, rtol=0)


def test_alone_a_prompts_row_is_what_it_is_beside_the_empty_one() -> None:
    u, v, star = drawn(5, 8), drawn(3, 5, 8), drawn(2, 8)
    both = changed(torch.cat([u.expand(3, 5, 8), v]), star, u, branches=2, shift="none")
    torch.testing.assert_close(changed(v, star, u, shift="none"), both[3:])
    share = both[:3, 1:] / u[1:]
    torch.testing.assert_close(share, share[..., :1].expand_as(share))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_what_is_left_is_orthogonal_to_every_concept(n: int) -> None:
    star, v = drawn(n, 16), drawn(4, 6, 16)
    left = changed(v, star, shift="none")
    assert float((left[:, 1:] @ star.T).abs().max()) < 1e-12
    assert torch.equal(left[:, 0], v[:, 0])
    again = changed(v, star.flip(0), shift="none")
    torch.testing.assert_close(left, again)  # of least squares: in any order


def test_of_two_concepts_it_is_gram_schmidt_with_a_factor_each() -> None:
    # Q_2 = y_2 + g y_1; removed are a_1 s_1 y_1 and a_2 (s_2 y_2 + g s_1 y_1).
    y, x = drawn(2, 8), drawn(1, 2, 8)
    g = -(y[0] @ y[1]) / (y[0] @ y[0])
    q = y[1] + g * y[0]
    a1, a2 = ((x[0, 1] @ z) / (z @ z) for z in (y[0], q))
    s = 2 * torch.sigmoid(3.0 * (torch.cosine_similarity(x[0, 1][None], y) - 0.1))
    removed = a1 * s[0] * y[0] + a2 * (s[1] * y[1] + g * s[0] * y[0])
    left = changed(x, y, steepness=3.0, threshold=0.1)
    torch.testing.assert_close(left[0, 1], x[0, 1] - removed)


def test_what_equals_the_concept_is_reversed_and_what_does_not_stays() -> None:
    star = drawn(1, 16)
    same = torch.stack([star[0], star[0], -star[0]])[None]
    left = changed(same, star)
    factor = 2 / (1 + torch.tensor(-50.0 * 0.14).exp())
    torch.testing.assert_close(left[0, 1], star[0] * float(1 - factor), atol=1e-6, rtol=0)
    torch.testing.assert_close(left[0, 2], -star[0])


def test_alike_concepts_count_once_and_nothing_is_no_concept() -> None:
    star, v = drawn(1, 16), drawn(2, 4, 16)
    twice = changed(v, star.repeat(2, 1), shift="none")
    torch.testing.assert_close(twice, changed(v, star, shift="none"))
    none = changed(v, torch.zeros(1, 16, dtype=torch.float64))
    assert torch.equal(none, v)


# -- the method ----------------------------------------------------------------------------------


def test_presets_are_as_published() -> None:
    fields = ("pairing", "shift", "steepness", "threshold", "ceiling")
    found = {name: tuple(getattr(AdaVD.preset(name), f) for f in fields) for name in AdaVD.presets}
    assert found["paper"] == ("branch", "adaptive", 50.0, 0.86, 2.0)
    assert found["release"] == ("joint", "adaptive", 100.0, 0.93, 2.0)
    assert found["release-unshifted"][:2] == ("joint", "none")


def test_the_strictness_of_the_two_is_the_same_where_lengths_agree() -> None:
    one, two = (AdaVD.preset(name) for name in ("paper", "release"))
    for c in (0.5, 0.86, 0.9, 1.0):
        assert one.steepness * (c - one.threshold) == pytest.approx(
            two.steepness * ((1 + c) / 2 - two.threshold)
        )


@pytest.mark.parametrize("preset", ["paper", "release"])
def test_the_concepts_value_is_what_the_concepts_prompt_gives(
    preset: str, model: TextToImage
) -> None:
    edited = AdaVD.preset(preset)(model, [STAR], rng=RNG)
    layer = model.layers(Role.TEXT_VALUES)[0]
    found = edited.hooks[0].tensors
    said = model.encode(["star"]).states_BLD[0]
    own = said[1] @ model.parameter(f"{layer}.weight").T
    torch.testing.assert_close(found[f"{layer}/concepts"][0], own)
    assert sorted(edited.hooks[0].layers) == sorted(model.layers(Role.TEXT_VALUES))
    empty = model.encode([""]).states_BLD[0] @ model.parameter(f"{layer}.weight").T
    expected = empty.norm(dim=-1) if preset == "release" else torch.zeros(model.length)
    torch.testing.assert_close(found[f"{layer}/empty"], expected)


@pytest.mark.parametrize("preset", ["paper", "release", "release-unshifted"])
def test_a_row_does_not_depend_on_its_neighbours(
    preset: str, exact: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    edited = AdaVD.preset(preset)(exact, [concepts["star"], concepts["heart"]], rng=RNG)
    told = edited.encode(["a star", "a heart", "a red house"])
    x = drawn(3, *exact.latent_shape)
    contexts = edited.guidance.contexts(edited, told)
    every = edited.branches(x, 500, contexts)
    for k in range(3):
        alone = edited.branches(x[k : k + 1], 500, [c[[k]] for c in contexts])
        torch.testing.assert_close(every[:, k : k + 1], alone)
    plain = exact.branches(x, 500, contexts)
    assert float((every[1] - plain[1]).abs().max()) > 1e-3
    others = float((every[0] - plain[0]).abs().max())
    assert others > 0 or preset == "paper"


def test_gradients_pass_as_differences_do(exact: TextToImage) -> None:
    edited = AdaVD(threshold=0.3, steepness=5.0)(exact, [STAR], rng=RNG)
    told = edited.encode(["a star"])
    x, way = drawn(1, *exact.latent_shape), 1e-4 * drawn(*told.states_BLD.shape)

    def loss(states: Tensor) -> Tensor:
        return edited.denoise(x, 500, replace(told, states_BLD=states)).square().sum()

    states = told.states_BLD.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(states), states)
    with torch.no_grad():
        rise = loss(states + way) - loss(states - way)
    torch.testing.assert_close(float((slope * way).sum() * 2), float(rise), rtol=1e-4, atol=1e-9)
