from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core.rng import normal_rows
from bench.model.listening import listening
from bench.model.regions import is_compiled, regions_of
from bench.model.text_to_image import TextToImage


@pytest.fixture
def in_blocks(model: TextToImage) -> Iterator[TextToImage]:
    """The miniature in blocks, seen by the compiler's front end alone: that is what looks at blocks and values."""
    torch._dynamo.reset()
    unet = deepcopy(model.backbone.unet)
    for region in regions_of(unet):
        region.compile(backend="eager")
    yield replace(model, backbone=replace(model.backbone, unet=unet))
    torch._dynamo.reset()


def test_the_blocks_hold_what_is_dear_and_none_is_inside_another(model: TextToImage) -> None:
    for network in (model.backbone.unet, model.backbone.vae.decoder):
        regions = list(regions_of(network))
        inside = [part for region in regions for part in region.modules()]
        assert len({id(part) for part in inside}) == len(inside)
        assert not is_compiled(network)
        counted = sum(p.numel() for region in regions for p in region.parameters())
        assert counted > 0.8 * sum(p.numel() for p in network.parameters())


def test_a_network_without_such_blocks_is_one_region() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert list(regions_of(network)) == [network]


@pytest.mark.slow
def test_an_edit_reaches_the_blocks_and_so_do_gradients(
    model: TextToImage, in_blocks: TextToImage
) -> None:
    assert is_compiled(in_blocks.backbone.unet)
    name = next(n for n in model.backbone.parameters if n.endswith("attn2.to_k.weight"))
    x, told = normal_rows(model.latent_shape, range(2)), model.encode(["a star", "a red heart"])
    found = []
    for base in (model, in_blocks):
        for edited in (base, base.with_weights({name: 2 * base.parameter(name)})):
            live = told.with_states(told.states_BLD.detach().requires_grad_())
            eps = edited.denoise(x, 500, live)
            found.append((eps.detach(), *torch.autograd.grad(eps.square().sum(), live.states_BLD)))
    for plain, ours in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)
    assert (found[2][0] - found[3][0]).abs().max() > 1e-3


@pytest.mark.parametrize("before", [False, True])
def test_who_listens_hears_every_call_of_a_compiled_network(
    in_blocks: TextToImage, before: bool
) -> None:
    name = next(n for n in in_blocks.backbone.parameters if n.endswith("attn2.to_k.weight"))
    x, told = normal_rows(in_blocks.latent_shape, range(1)), in_blocks.encode(["a star"])
    heard: list[tuple[int, ...]] = []

    def hear(module: Any, given: Any, *out: torch.Tensor) -> None:
        heard.append(tuple(out[0].shape if out else given[0].shape))

    with torch.no_grad():
        in_blocks.denoise(x, 500, told)  # compiled before anybody listens
        with listening(in_blocks, {name.removesuffix(".weight"): hear}, before=before):
            in_blocks.denoise(x, 500, told)
        in_blocks.denoise(x, 500, told)
    assert len(heard) == 1
    assert heard[0][:2] == told.states_BLD.shape[:2]


def test_plug_ins_listen_by_the_one_way_that_compiled_networks_hear_of() -> None:
    root = Path(__file__).parents[3]
    plug_ins = [
        p for f in ("methods", "attacks", "tvc", "bench/toolkit") for p in (root / f).rglob("*.py")
    ]
    assert len(plug_ins) > 50
    assert [str(p) for p in plug_ins if "register_forward" in p.read_text()] == []
