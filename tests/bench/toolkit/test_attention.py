"""Attention maps: they are the probabilities that the layers themselves use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.interfaces import Role
from bench.model.text_to_image import TextToImage
from bench.toolkit.attention import attention_maps
from tests.adapter import adapted


def drawn(model: TextToImage, rows: int) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randn(rows, *model.latent_shape, generator=draw).to(model.dtype)


def test_maps_times_values_are_what_the_layers_put_out(exact: TextToImage) -> None:
    name = exact.having(Role.TEXT_KEYS_AND_VALUES)[0]
    model = exact.with_weights({name: 1.5 * exact.parameter(name)})
    x, told = drawn(model, 2), model.encode(["a red star", "a fish"])
    layers = model.layers(Role.CROSS_ATTENTION)
    outs: dict[str, Tensor] = {}

    def keep(layer: str) -> Any:
        return lambda module, args, out: outs.__setitem__(layer, out)

    handles = [model.layer(layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        with torch.no_grad():
            predicted, maps = attention_maps(model, x, 500, told)
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        assert torch.equal(predicted, model.denoise(x, 500, told))
    assert list(maps) == layers
    for layer, probabilities in maps.items():
        torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities[..., 0]))
        module: Any = model.layer(layer)
        values = told.states_BLD @ model.parameter(f"{layer}.to_v.weight").T
        heads = values.unflatten(-1, (module.heads, -1)).transpose(1, 2)
        joined = (probabilities @ heads).transpose(1, 2).flatten(2)
        torch.testing.assert_close(module.to_out[0](joined), outs[layer], atol=1e-9, rtol=1e-7)
    assert not any(module._forward_hooks for module in model.backbone.unet.modules())


def test_some_layers_of_a_hooked_model_and_gradients(exact: TextToImage) -> None:
    layers = exact.layers(Role.CROSS_ATTENTION)
    x, told = drawn(exact, 1), exact.encode(["a red star"]).detach()
    states = told.states_BLD.requires_grad_()
    _, plain = attention_maps(exact, x, 500, told, layers[-1:])
    _, after = attention_maps(adapted(exact), x, 500, told, layers[-1:])
    assert list(plain) == list(after) == layers[-1:]
    assert (plain[layers[-1]] - after[layers[-1]]).abs().max() > 1e-4
    (pull,) = torch.autograd.grad(after[layers[-1]].square().sum(), states)
    assert pull.abs().max() > 0
