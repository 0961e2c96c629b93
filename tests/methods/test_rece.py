from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.text_to_image import TextToImage
from methods.rece import RECE, surviving
from methods.uce import UCE

RNG = Rng(("rece",))
HEART = Concept(text="heart")


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("rece", *shape), dtype=torch.float64)


def matrices() -> tuple[list[Tensor], list[Tensor]]:
    """Three matrices of different heights, and what they were."""
    return [drawn(n, 8) for n in (5, 6, 9)], [drawn(n, 8, 1)[..., 0] for n in (5, 6, 9)]


def cross_attention(model: TextToImage) -> list[str]:
    ends = ("attn2.to_k.weight", "attn2.to_v.weight")
    return [n for n in model.backbone.parameters if n.startswith("unet.") and n.endswith(ends)]


# -- the equation --------------------------------------------------------------------------------


def test_states_computed_by_hand() -> None:
    # (1 + 4) c' = 2 * 3 c, entry by entry.
    W_e, W_o = 2 * torch.eye(2), 3 * torch.eye(2)
    found = surviving([W_e], [W_o], torch.tensor([[1.0, -2.0]]), reg=1.0)
    torch.testing.assert_close(found, torch.tensor([[1.2, -2.4]], dtype=torch.float64))


def test_they_solve_their_least_squares() -> None:
    edited, original = matrices()
    c, reg = drawn(4, 8), 0.3
    found = surviving(edited, original, c, reg)
    A = torch.cat([*edited, reg**0.5 * torch.eye(8, dtype=torch.float64)])
    b = torch.cat([*(W @ c.T for W in original), torch.zeros(8, 4, dtype=torch.float64)])
    torch.testing.assert_close(found, torch.linalg.lstsq(A, b).solution.T, atol=1e-9, rtol=0)


def test_they_are_the_minimum_of_the_papers_loss() -> None:
    edited, original = matrices()
    c, reg = drawn(4, 8), 0.3
    found = surviving(edited, original, c, reg).requires_grad_()
    parts = [(found @ e.T - c @ o.T).square().sum() for e, o in zip(edited, original, strict=True)]
    (sum(parts, start=torch.zeros(())) + reg * found.square().sum()).backward()
    assert found.grad is not None
    torch.testing.assert_close(found.grad, torch.zeros_like(found), atol=1e-9, rtol=0)


def test_of_matrices_that_were_not_edited_they_are_the_states() -> None:
    edited, _ = matrices()
    c = drawn(4, 8)
    torch.testing.assert_close(surviving(edited, edited, c, 1e-12), c, atol=1e-8, rtol=0)


def test_a_large_reg_leaves_nothing() -> None:
    edited, original = matrices()
    assert surviving(edited, original, drawn(4, 8), 1e12).abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_system_is_solved_in_float64(dtype: torch.dtype) -> None:
    edited, original = ([W.to(dtype) for W in part] for part in matrices())
    c = drawn(4, 8).to(dtype)
    exact = surviving([W.double() for W in edited], [W.double() for W in original], c.double(), 0.3)
    torch.testing.assert_close(surviving(edited, original, c, 0.3), exact, atol=1e-12, rtol=0)


# -- on the miniature ----------------------------------------------------------------------------


def responses(model: TextToImage, states_ND: Tensor) -> list[Tensor]:
    return [
        states_ND.double() @ model.parameter(n).double().T
        for n in model.backbone.parameters
        if n in cross_attention(model)
    ]


def survival(model: TextToImage, edited: TextToImage, reg: float) -> float:
    """How near the edited keys and values can still come to the original ones: 0 is exactly."""
    names, states = cross_attention(model), model.encode(["heart"]).states_BLD[0]
    found = surviving(
        [edited.parameter(n) for n in names], [model.parameter(n) for n in names], states, reg
    )
    pairs = zip(responses(edited, found), responses(model, states), strict=True)
    return float(sum(((now - was).square().sum() for now, was in pairs), start=torch.zeros(())))


def test_no_epoch_is_uce(model: TextToImage) -> None:
    for start in ("repo-2023", "repo-2025"):
        plain = UCE.preset(start, guide=" ")(model, [HEART], rng=RNG)
        assert RECE(start=start, epochs=0)(model, [HEART], rng=RNG).digest == plain.digest


def test_an_epoch_makes_the_concept_harder_to_reach(model: TextToImage) -> None:
    lost = [
        survival(model, RECE(epochs=k, reg=1e-3)(model, [HEART], rng=RNG), 1e-3) for k in (0, 1)
    ]
    assert lost[1] > lost[0]


def test_what_survived_acts_as_the_guide_afterwards(model: TextToImage) -> None:
    names, c = cross_attention(model), model.encode(["heart"]).states_BLD[0]
    before = RECE(epochs=0)(model, [HEART], rng=RNG)
    after = RECE(epochs=1, lam=1e-6)(model, [HEART], rng=RNG)
    original, edited = ([m.parameter(n) for n in names] for m in (model, before))
    found = surviving(edited, original, c, 0.1)
    guide = model.encode([" "]).states_BLD[0]
    for was, now, to in zip(
        responses(before, found), responses(after, found), responses(before, guide), strict=True
    ):
        assert (now - to).norm() < 0.2 * (was - to).norm()


@pytest.mark.parametrize(("counted", "weight"), [("once", 0.1), ("per-concept", 0.2)])
def test_an_epoch_is_the_formula(model: TextToImage, counted: str, weight: float) -> None:
    # "" is preserved, whatever the guide is, and counts once or as often as there are concepts.
    both, kept = [HEART, Concept(text="brakk")], ("a ring",)
    spec = RECE.preset("style", guide="fish", preserve=kept, counted=counted)
    names = cross_attention(model)
    before = UCE.preset("repo-2023", guide="fish", preserve=kept)(model, both, rng=RNG)
    after = spec(model, both, rng=RNG)
    heart, brakk, fish, empty, ring = model.encode(
        ["heart", "brakk", "fish", "", *kept]
    ).states_BLD.double()
    edited, original = ([m.parameter(n) for n in names] for m in (before, model))
    found = surviving(edited, original, torch.cat([heart, brakk]), 1e-3)
    for name, W in zip(names, (w.double() for w in edited), strict=True):
        left, right = 0.1 * W, 0.1 * torch.eye(W.shape[1], dtype=torch.float64)
        for c, g in zip(found, torch.cat([fish, fish]), strict=True):
            left, right = left + torch.outer(W @ g, c), right + torch.outer(c, c)
        for p in torch.cat([empty, ring]):
            left, right = left + weight * torch.outer(W @ p, p), right + weight * torch.outer(p, p)
        expected = (left @ torch.inverse(right)).float()
        off = (after.weights[name] - expected).norm() / (expected - W.float()).norm()
        assert off < 1e-4, name


def test_a_list_is_preserved_but_for_the_erased_name(model: TextToImage) -> None:
    one, other = (
        RECE(epochs=1, preserve=names)(model, [HEART], rng=RNG)
        for names in (("a ring", "Heart"), ("a ring",))
    )
    assert one.digest == other.digest != RECE(epochs=1)(model, [HEART], rng=RNG).digest


@pytest.mark.parametrize("preset", sorted(RECE.presets))
def test_it_edits_every_key_and_value_of_the_cross_attentions(
    model: TextToImage, preset: str
) -> None:
    edited = RECE.preset(preset)(model, [HEART], rng=RNG)
    assert sorted(edited.weights) == sorted(cross_attention(model))


def test_several_concepts_are_erased_together(model: TextToImage) -> None:
    both = [HEART, Concept(text="brakk")]
    edited = RECE(epochs=1, reg=1e-3)(model, both, rng=RNG)
    plain = UCE(guide=" ")(model, both, rng=RNG)
    assert survival(model, edited, 1e-3) > survival(model, plain, 1e-3)


def test_presets_are_as_published() -> None:
    same: dict[str, Any] = {
        "start": "repo-2023", "guide": " ", "preserve": (), "counted": "once", "lam": 0.1,
        "erase_scale": 1.0, "preserve_scale": 0.1, "templates": ("{}",), "solver": "float64",
    }  # fmt: skip
    published: dict[str, dict[str, Any]] = {
        "nudity": {"reg": 1e-1, "epochs": 3, "counted": "per-concept"},
        "unsafe": {"reg": 1e-1, "epochs": 2, "counted": "per-concept"},
        "style": {"reg": 1e-3, "epochs": 1, "guide": "art"},
        "hard-object": {"reg": 1e-3, "epochs": 1},
        "easy-object": {"reg": 1e-1, "epochs": 1},
    }
    for name, fields in published.items():
        assert RECE.preset(name).model_dump() == {**same, **fields}
    assert RECE() == RECE.preset("nudity")
    assert {RECE.preset(p).label for p in RECE.presets} == {f"rece[{p}]" for p in RECE.presets}


def test_no_concepts_are_an_error(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="rece: expected at least one concept"):
        RECE()(model, [], rng=RNG)


@pytest.mark.parametrize(
    "fields", [{"reg": 0.0}, {"epochs": -1}, {"lam": 0.0}, {"start": "x"}, {"templates": ()}]
)
def test_fields_are_checked(fields: Mapping[str, object]) -> None:
    with pytest.raises(ValueError):
        RECE.model_validate(fields)


def test_progress_is_told_of_every_epoch(model: TextToImage) -> None:
    told: list[tuple[int, int]] = []
    RECE(epochs=2)(
        model, [HEART], rng=RNG, progress=lambda done, total, what: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)]
