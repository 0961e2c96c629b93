"""Layers computed otherwise on a CPU give the numbers that the libraries' own modules give."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from attacks.concept_inversion import ConceptInversion
from bench.core.rng import generator_for
from bench.interfaces import Concept, Context, Rng, Target
from bench.judges.mini import MiniJudge
from bench.model.guidance import NegativePrompt
from bench.model.on_cpu import CpuAttention, Float32GroupNorm
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model
from methods.uce import UCE

NEAR = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator_for("on_cpu", *shape)).to(dtype)


def through(layer: Attention, states: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
    """The output, and its gradients by what went in."""
    given = [x.clone().requires_grad_() for x in (states, context) if x is not None]
    out = layer(given[0], encoder_hidden_states=given[1] if len(given) > 1 else None)
    return out.detach(), *torch.autograd.grad(out.float().square().sum(), given)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(("queries", "keys"), [(64, 64), (64, 7), (100, None), (1, 3)])
def test_attention_and_its_gradients_are_the_fused_kernels(
    dtype: torch.dtype, queries: int, keys: int | None
) -> None:
    torch.manual_seed(0)
    layer = Attention(32, 24, heads=4, dim_head=8).to(dtype).requires_grad_(requires_grad=False)
    if keys is None:
        layer = Attention(32, heads=4, dim_head=8).to(dtype).requires_grad_(requires_grad=False)
    states = draw(3, queries, 32, dtype=dtype)
    context = None if keys is None else draw(3, keys, 24, dtype=dtype)
    layer.set_processor(CpuAttention())
    ours = through(layer, states, context)
    layer.set_processor(AttnProcessor2_0())
    for mine, wanted in zip(ours, through(layer, states, context), strict=True):
        apart = (mine - wanted).float().norm() / wanted.float().norm()
        assert apart < NEAR[dtype]


@pytest.mark.parametrize(
    ("keys", "dtype", "plain"),
    [
        (77, torch.float32, False),
        (256, torch.bfloat16, True),
        (1024, torch.bfloat16, False),
        (32, torch.float16, False),
    ],
)
def test_few_keys_are_multiplied_and_many_are_fused(
    monkeypatch: pytest.MonkeyPatch, keys: int, dtype: torch.dtype, *, plain: bool
) -> None:
    used = list[str]()

    def note(self: object, *_: object) -> Tensor:
        used.append(type(self).__name__)
        return torch.zeros(1)

    for kernel in (AttnProcessor, AttnProcessor2_0):
        monkeypatch.setattr(kernel, "__call__", note)
    CpuAttention()(
        nn.Identity(), torch.zeros(1, 4, 8, dtype=dtype), torch.zeros(1, keys, 8, dtype=dtype)
    )
    assert used == ["AttnProcessor" if plain else "AttnProcessor2_0"]


@pytest.mark.parametrize("dtype", NEAR)
def test_a_mask_is_obeyed(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Attention(32, 32, heads=4, dim_head=8).to(dtype)
    states, context = draw(2, 9, 32, dtype=dtype), draw(2, 5, 32, dtype=dtype)
    mask = torch.tensor([0.0, 0.0, -1e9, 0.0, -1e9], dtype=dtype).expand(2, 1, 5)
    layer.set_processor(CpuAttention())
    seen = layer(states, context, attention_mask=mask)
    torch.testing.assert_close(seen, layer(states, context[:, [0, 1, 3]]))


def test_a_bfloat16_group_norm_is_the_float32_one_rounded() -> None:
    norm = nn.GroupNorm(4, 16).to(torch.bfloat16)
    nn.init.normal_(norm.weight, generator=generator_for("on_cpu"))
    values = draw(2, 16, 5, 5, dtype=torch.bfloat16)
    exact = nn.GroupNorm(4, 16)
    exact.load_state_dict(norm.float().state_dict())
    norm.to(torch.bfloat16)
    norm.__class__ = Float32GroupNorm
    out = norm(values)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, exact(values.float()).to(torch.bfloat16))


@pytest.fixture(scope="module")
def halved() -> TextToImage:
    return load_model(dtype="bfloat16")


def test_bfloat16_is_near_float32(model: TextToImage, halved: TextToImage) -> None:
    noisy = draw(2, *model.latent_shape)
    near = [
        (
            one.encode(["a red star", "a fish"]).states_BLD,
            one.denoise(noisy.to(one.backbone.dtype), 400, one.encode(["a red star", "a fish"])),
        )
        for one in (model, halved)
    ]
    for exact, rounded in zip(*near, strict=True):
        assert (exact - rounded.float()).norm() / exact.norm() < 0.02


def test_an_edit_reaches_what_was_changed(
    model: TextToImage, halved: TextToImage, concepts: dict[str, Concept]
) -> None:
    assert halved.backbone.parameters.keys() == model.backbone.parameters.keys()
    norms = [m for m in halved.backbone.unet.modules() if isinstance(m, nn.GroupNorm)]
    assert {type(m) for m in norms} == {Float32GroupNorm}
    name = "unet.conv_norm_out.weight"
    edits = (
        halved.with_weights({name: halved.parameter(name) * 2}),
        UCE.preset("repo-2023")(halved, [concepts["star"]], rng=Rng(("t",))),
    )
    noisy, states = draw(1, *model.latent_shape).bfloat16(), halved.encode(["a star"])
    seen = [one.denoise(noisy, 400, states) for one in (halved, *edits)]
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))


def kernels(networks: Any) -> tuple[set[type], set[type], str]:
    """The kinds of attention and of group norms, and the text encoder's attention."""
    modules = [*networks.unet.modules(), *networks.vae.modules()]
    return (
        {type(p) for p in networks.unet.attn_processors.values()},
        {type(m) for m in modules if isinstance(m, nn.GroupNorm)},
        networks.text_encoder.config._attn_implementation,
    )


def test_what_is_changed_in_which_precision(model: TextToImage, halved: TextToImage) -> None:
    full, half = (kernels(one.backbone) for one in (model, halved))
    assert full == ({AttnProcessor2_0}, {nn.GroupNorm}, "sdpa")
    assert half == ({CpuAttention}, {Float32GroupNorm}, "eager")


def test_an_exported_pipeline_is_the_libraries_own(halved: TextToImage) -> None:
    assert kernels(halved.to_diffusers()) == ({AttnProcessor2_0}, {nn.GroupNorm}, "sdpa")
    assert kernels(halved.backbone) == ({CpuAttention}, {Float32GroupNorm}, "eager")  # a copy


def test_concept_inversion_through_a_guidance_in_bfloat16(
    halved: TextToImage, concepts: dict[str, Concept], tiny_sampler: Sampler
) -> None:
    attack = ConceptInversion(images=2, steps=2, draws=2, restarts=1)
    guided = halved.with_guidance(NegativePrompt(text="star", weight=2.0))
    target = Target(guided, tiny_sampler, MiniJudge())
    learned, faults = attack._learn(target, concepts["star"], Context(Rng(("t",))))
    assert learned.dtype == torch.float32
    assert learned.isfinite().all()
    assert faults.tolist() == [[0, 0]]
    start = attack._start(halved, concepts["star"], Rng(("t",)), 0)
    assert (learned[0] - start).abs().max() > 1e-3
