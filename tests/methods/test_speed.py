"""SPEED: its equations on small numbers, and its edit of the miniature."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng, Role
from bench.model.text_to_image import TextToImage
from methods.shared.guides import last_token
from methods.speed import SPEED, augmented, empty_centres, null_space, step

RNG = Rng(("speed",))
EYE = torch.eye(4, dtype=torch.float64)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("speed", *shape), dtype=torch.float64)


def outer(a: Tensor, c: Tensor) -> Tensor:
    return a[:, None] * c


# -- the equations -------------------------------------------------------------------------------


def test_an_edit_computed_by_hand() -> None:
    # T = 4 e1 e1^T, A = 4 e2 e1^T, P projects on all but e3, M = diag(1/5, 1, 1, 1) and K = e4.
    # So W (A - T) P (I - e4 e4^T) M c is W 4 (e2 - e1) (2 / 5). That is 4/5 W (a - c).
    c, a = 2 * EYE[0], 2 * EYE[1]
    W, P = drawn(3, 4), null_space(EYE[2:3], 0.1, "absolute")
    torch.testing.assert_close(P, torch.diag(torch.tensor([1.0, 1, 0, 1], dtype=torch.float64)))
    change = step(W, outer(c, c), outer(a, c), P, EYE[:, 3:], rho=1.0, lam=0.0)
    torch.testing.assert_close(change @ c, 0.8 * W @ (a - c))
    torch.testing.assert_close(change[:, 2:], torch.zeros(3, 2, dtype=torch.float64))


@pytest.mark.parametrize(("rho", "lam"), [(1.0, 0.0), (0.05, 0.0), (0.7, 0.5)])
def test_what_lies_outside_the_null_space_stays(rho: float, lam: float) -> None:
    c, a, kept, W = drawn(2, 12), drawn(3, 12)[:2], drawn(5, 12), drawn(7, 12)
    P = null_space(kept, 1e-9, "absolute")
    change = step(W, c.T @ c, a.T @ c, P, drawn(12, 2), rho=rho, lam=lam)
    assert float((change @ kept.T).abs().max()) < 1e-9
    assert float((change @ c.T).abs().max()) > 1e-3
    torch.testing.assert_close(change @ P, change)


def test_without_lam_the_empty_prompt_stays_and_with_it_it_moves() -> None:
    c, a, W, K = drawn(1, 12), drawn(2, 12)[:1], drawn(7, 12), drawn(12, 3)
    for lam, stays in ((0.0, True), (0.5, False)):
        change = step(W, c.T @ c, a.T @ c, torch.eye(12, dtype=torch.float64), K, rho=1.0, lam=lam)
        assert (float((change @ K).abs().max()) < 1e-9) == stays


def test_a_centre_that_is_kept_anyway_does_no_harm() -> None:
    # P leaves nothing of the centre, so K^T P M K is 0 and has no inverse.
    c, a = 2 * EYE[0], 2 * EYE[1]
    P = null_space(EYE[2:3], 0.1, "absolute")
    change = step(drawn(3, 4), outer(c, c), outer(a, c), P, EYE[:, 2:3], rho=1.0, lam=0.0)
    torch.testing.assert_close(change @ c, 0.8 * drawn(3, 4) @ (a - c))


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_in_units_of_the_mean_the_null_space_has_no_scale(scale: float) -> None:
    kept = drawn(3, 8)
    torch.testing.assert_close(
        null_space(scale * kept, 1e-6, "mean"), null_space(kept, 1e-6, "mean")
    )
    assert round(float(null_space(scale * kept, 1e-6, "mean").trace())) == 5


def test_copies_lie_along_the_direction_that_is_read_least() -> None:
    W = torch.diag(torch.tensor([3.0, 2, 0.5, 1], dtype=torch.float64))
    kept, naive = drawn(5, 4), drawn(6, 4)
    found = augmented(kept, W, naive, 10, generator_for("speed", "copies"))
    torch.testing.assert_close(found[:5], kept)
    near = found[5:]
    assert 0 < len(near) < 50
    away = (near[:, None] - kept).index_select(-1, torch.tensor([0, 1, 3])).norm(dim=-1)
    assert float(away.min(dim=1).values.max()) < 1e-12
    # Those that were left out are moved less than the mean of all copies.
    every = augmented(kept, W, torch.zeros_like(naive), 10, generator_for("speed", "copies"))
    assert len(every) == 5, "nothing is moved more than the mean where nothing is moved"


def test_the_centres_of_the_empty_prompt() -> None:
    three = drawn(3, 6) * 10
    states = torch.cat([drawn(1, 6), three.repeat(5, 1) + 1e-3 * drawn(15, 6)])
    K = empty_centres(states, 3, seed=7)
    torch.testing.assert_close(K[:, 0], states[0])
    nearest = torch.cdist(K.T[1:], three).min(dim=0).values
    assert float(nearest.max()) < 1e-2
    torch.testing.assert_close(empty_centres(states, 3, seed=7), K)


# -- the method ----------------------------------------------------------------------------------


def test_presets_are_as_published() -> None:
    fields = ("anchor", "span", "rho", "lam", "threshold", "copies", "filter", "part", "unit")
    found = {name: tuple(getattr(SPEED.preset(name), f) for f in fields) for name in SPEED.presets}
    rest = (0.1, 10, "influence", "values", "absolute")
    assert found["instance"] == ("", "last_subject", 1.0, 0.0, *rest)
    assert found["style"] == ("art", "last_subject", 1.0, 0.0, *rest)
    assert found["nudity"] == ("", "all", 0.7, 0.5, *rest)
    assert found["celebrities"][:4] == ("person", "last_subject", 0.05, 0.0)
    assert found["celebrities"][6] == "none"


def test_values_alone_change_and_the_empty_prompt_does_not(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    edited = SPEED.preset("mini")(model, [concepts["star"]], rng=RNG)
    values = model.having(Role.TEXT_VALUES)
    assert sorted(edited.weights) == sorted(values)
    assert 0 < len(values) < len(model.having(Role.TEXT_KEYS_AND_VALUES))
    states = model.encode(["", "star", "house"]).states_BLD.double()
    at = {text: last_token(model, text) for text in ("star", "house")}
    for name in values[:3]:
        change = edited.parameter(name).double() - model.parameter(name).double()
        moved = {
            "start": (change @ states[0, 0]).norm(),
            "star": (change @ states[1, at["star"]]).norm(),
        }
        assert float(moved["start"]) < 1e-4 * float(moved["star"])


def test_a_row_of_a_kept_text_stays(model: TextToImage) -> None:
    method = SPEED(retain=("house", "tree"), copies=0, filter="none", threshold=1e-6)
    edited = method(model, [Concept(text="star")], rng=RNG)
    states = model.encode(["house", "tree", "star"]).states_BLD.double()
    name = model.having(Role.TEXT_VALUES)[0]
    change = edited.parameter(name).double() - model.parameter(name).double()
    house, tree, star = (
        float((change @ s[last_token(model, t)]).norm())
        for s, t in zip(states, ("house", "tree", "star"), strict=True)
    )
    assert max(house, tree) < 1e-3 * star


def test_texts_that_name_a_concept_are_not_kept(model: TextToImage) -> None:
    concept = [Concept(text="star")]
    fields = {"copies": 0, "filter": "none"}
    one = SPEED(retain=("house", "a red Star"), **fields)(model, concept, rng=RNG)
    two = SPEED(retain=("house",), **fields)(model, concept, rng=RNG)
    assert one.digest == two.digest
    with pytest.raises(UsageError, match="a text that names no erased concept, got none"):
        SPEED(retain=("star",))(model, concept, rng=RNG)


def test_concepts_of_one_name_twice_change_nothing_more(model: TextToImage) -> None:
    """The mean over concepts, not the sum: twice the same one is the same edit."""
    method = SPEED(retain=("house", "tree"), copies=0, filter="none")
    once = method(model, [Concept(text="star")], rng=RNG)
    both = method(model, [Concept(text="star"), Concept(text="star", guide="x")], rng=RNG)
    name = model.having(Role.TEXT_VALUES)[0]
    torch.testing.assert_close(once.parameter(name), both.parameter(name))
