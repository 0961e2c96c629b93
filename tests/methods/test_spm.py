"""SPM: its gate, its adapters and its anchors on small numbers, and its edit of the miniature."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.conditioning import Conditioning
from bench.model.hooks import Pass
from bench.model.text_to_image import TextToImage
from methods.shared.prompt_gates import GatedAdapters, gate_tensors, nearness, transformer_layers
from methods.spm import SPM, anchors, restarting

RNG = Rng(("spm",))
STAR, HOUSE = Concept(text="star"), Concept(text="house")
QUICK = SPM.preset("mini", **SPM.quick)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("spm", *shape))


def membranes(model: TextToImage, size: float = 0.3, n: int = 1) -> dict[str, Tensor]:
    """Random adapters of rank 1 at every layer that has one."""
    return {
        name: part
        for layer, (out, given) in transformer_layers(model).items()
        for name, part in (
            (f"{layer}/down", drawn(n, 1, given) * given**-0.5),
            (f"{layer}/up", drawn(n, out, 1) * size),
        )
    }


# -- the gate ------------------------------------------------------------------------------------


def test_the_gate_is_the_larger_of_cosine_and_share_of_tokens() -> None:
    e = torch.eye(4).view(4, 2, 2)
    ids, concept = torch.tensor([[9, 3, 8, 0], [7, 3, 7, 0]]), torch.tensor([[3, 7], [5, -1]])
    found = nearness(torch.stack([e[0], e[1]]), torch.stack([e[0] + e[1], e[2]]), ids, concept)
    root = 1 / math.sqrt(2)
    torch.testing.assert_close(found, torch.tensor([[root, 0.0], [1.0, 0.0]]))
    alone = nearness(torch.stack([e[2], e[3]]), torch.stack([e[0], e[2]]), ids, concept)
    torch.testing.assert_close(alone, torch.tensor([[0.5, 1.0], [1.0, 0.0]]))
    injected = nearness(torch.stack([e[2], e[3]]), torch.stack([e[0], e[2]]), None, concept)
    torch.testing.assert_close(injected, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))


def test_of_an_adapters_texts_the_nearest_counts() -> None:
    e = torch.eye(4).view(4, 1, 4)
    tensors = {
        "states": e[:3],
        "ids": torch.tensor([[3], [4], [5]]),
        "owner": torch.tensor([0, 0, 1]),
    }
    told = Pass("unet", (torch.tensor([[4], [9]]),), Conditioning(e[2:]))
    found = GatedAdapters().gate(tensors, told)
    assert found is not None
    assert found.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_every_branch_has_the_gate_of_the_prompt(model: TextToImage) -> None:
    tensors = gate_tensors(model, [["star"]])
    told = model.encode(["", "a star", "a red house"])
    plain = GatedAdapters().gate(tensors, Pass("unet", told.ids, told))
    assert plain is not None
    assert plain[1] == 1
    both = Conditioning.cat([told[[0, 0]], told[[1, 2]]])
    guided = GatedAdapters().gate(tensors, Pass("unet", both.ids, both, branches=2))
    assert guided is not None
    torch.testing.assert_close(guided, torch.cat([plain[1:], plain[1:]]))
    injected = GatedAdapters().gate(tensors, Pass("unet", (), told))
    assert injected is not None
    assert float(injected[1]) < 1


# -- the adapters --------------------------------------------------------------------------------


@pytest.mark.parametrize(("transport", "power"), [("release", 2), ("paper", 1)])
def test_the_code_multiplies_both_halves_and_the_paper_one(transport: str, power: int) -> None:
    D, U = drawn(1, 2, 5), drawn(1, 3, 2)
    tensors, m = {"x/down": D, "x/up": U}, torch.tensor([[0.5], [1.0]])
    hook = GatedAdapters.model_validate({"transport": transport})
    given, out = drawn(2, 4, 5), drawn(2, 4, 3)
    new = hook.change("x", given, out, tensors, m, Pass("unet"))
    expected = m.pow(power)[:, :, None] * (given @ D[0].T @ U[0].T)
    torch.testing.assert_close(new - out, expected)
    picture = given.mT.unflatten(-1, (2, 2))
    new = hook.change("x", picture, out.mT.unflatten(-1, (2, 2)), tensors, m, Pass("unet"))
    torch.testing.assert_close(new.flatten(2).mT - out, expected)


def test_in_the_paper_two_adapters_add_up_and_in_the_code_they_mix() -> None:
    D, U = drawn(2, 1, 5), drawn(2, 3, 1)
    given, out = drawn(1, 4, 5), torch.zeros(1, 4, 3)

    def change(transport: str, which: slice) -> Tensor:
        hook = GatedAdapters.model_validate({"transport": transport})
        tensors = {"x/down": D[which], "x/up": U[which]}
        m = torch.tensor([[0.5, 0.7]])[:, which]
        return hook.change("x", given, out, tensors, m, Pass("unet"))

    whole, first, second = slice(0, 2), slice(0, 1), slice(1, 2)
    torch.testing.assert_close(
        change("paper", whole), change("paper", first) + change("paper", second)
    )
    mixed = change("release", whole)
    m, x = torch.tensor([0.5, 0.7]), given[0]
    by_hand = x @ (m[0] * D[0] + m[1] * D[1]).T @ (m[0] * U[0] + m[1] * U[1]).T
    torch.testing.assert_close(mixed[0], by_hand)
    assert not torch.allclose(mixed, change("release", first) + change("release", second))


def test_an_open_gate_is_a_merged_adapter_and_a_closed_one_nothing(exact: TextToImage) -> None:
    tensors = {n: w.double() for n, w in membranes(exact).items()}
    merged = exact.with_added(
        {
            f"{layer}.weight": (tensors[f"{layer}/up"][0] @ tensors[f"{layer}/down"][0]).view(
                exact.parameter(f"{layer}.weight").shape
            )
            for layer in transformer_layers(exact)
        }
    )
    tensors |= gate_tensors(exact, [["star"]])
    told, x = exact.encode(["a star", "a red house"]), drawn(2, *exact.latent_shape).double()
    opened, closed = (
        exact.with_hook(GatedAdapters(multiplier=m), tensors).denoise(x, 500, told)
        for m in (1.0, 0.0)
    )
    torch.testing.assert_close(opened, merged.denoise(x, 500, told), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(closed, exact.denoise(x, 500, told))
    gated = exact.with_hook(GatedAdapters(), tensors).denoise(x, 500, told)
    torch.testing.assert_close(gated[0], opened[0])  # it names the star, so its gate is 1
    assert not torch.allclose(gated[1], opened[1])
    assert not torch.allclose(gated[1], closed[1])


def test_stable_diffusion_has_twelve_layers_in_each_transformer(model: TextToImage) -> None:
    found = transformer_layers(model)
    blocks = {name.partition(".transformer_blocks")[0] for name in found if ".attn2." in name}
    assert len(found) == 12 * len(blocks)
    assert not any("norm" in name for name in found)


# -- the training --------------------------------------------------------------------------------


def test_of_the_releases_anchors_the_second_half_of_the_pairs_is_seen() -> None:
    phrase, empty = Conditioning(drawn(1, 3, 2)), Conditioning(torch.zeros(1, 3, 2))
    random = anchors(phrase, empty, 4, "random", generator_for("spm", "anchors"))
    seen = anchors(phrase, empty, 4, "release", generator_for("spm", "anchors"))
    assert len(random) == len(seen) == 4
    for row, expected in zip(
        seen.states_BLD, (empty.states_BLD[0], random.states_BLD[2], empty.states_BLD[0], random.states_BLD[3]),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(row, expected)
    lengths = random.states_BLD.flatten(1).norm(dim=1) / phrase.states_BLD.norm()
    assert bool(((lengths > 0.8) & (lengths < 1.2)).all())
    assert len(lengths.unique()) == 4


def test_the_learning_rate_rises_and_falls_three_times() -> None:
    factor = restarting(3000, 500, 3)
    assert [factor(k) for k in (0, 250, 500)] == [0.0, 0.5, 1.0]
    cycle = 2500 / 3
    for n in range(3):
        assert factor(500 + math.ceil(n * cycle)) == pytest.approx(1, abs=1e-4)
        assert factor(500 + int((n + 0.5) * cycle)) == pytest.approx(0.5, abs=2e-3)
        assert factor(500 + int((n + 1) * cycle) - 1) == pytest.approx(0, abs=1e-4)


def test_presets_are_as_published() -> None:
    for name, rows in (("release", "release"), ("paper", "random")):
        found = SPM.preset(name)
        assert (found.anchor_rows, found.transport) == (rows, name)
        assert (found.rank, found.iterations, found.lr, found.batch_size) == (1, 3000, 1e-4, 1)
        assert (found.warmup, found.restarts, found.weight_decay) == (500, 3, 1e-2)
        assert (found.anchoring, found.anchors, found.eta, found.neutral) == (1000.0, 4, 1.0, "")
        assert (found.sampling_steps, found.start_guidance, found.sides) == (30, 3.0, "drawn")


def test_membranes_of_two_concepts_stand_side_by_side(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    both = QUICK(model, [STAR, HOUSE], rng=RNG)
    one = QUICK(model, [STAR], rng=RNG)
    (hook,), (alone,) = both.hooks, one.hooks
    assert hook.tensors["owner"].tolist() == [0, 1]
    layer = hook.layers[0]
    for half in ("down", "up"):
        assert len(hook.tensors[f"{layer}/{half}"]) == 2
        assert torch.equal(hook.tensors[f"{layer}/{half}"][:1], alone.tensors[f"{layer}/{half}"])
    assert float(hook.tensors[f"{layer}/up"].abs().max()) > 0


def test_latents_of_other_sizes_are_trained_on(model: TextToImage) -> None:
    edited = QUICK.model_copy(update={"sides": "drawn"})(model, [STAR], rng=RNG)
    assert edited.digest != QUICK(model, [STAR], rng=RNG).digest
