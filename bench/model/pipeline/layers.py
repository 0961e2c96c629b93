"""The tensors that networks of Stable Diffusion's classes have, by their configurations: names and shapes.

diffusers would say so too, but to build a network imports torch. ``tests/bench/model/test_base_layers.py`` holds these
to the networks that diffusers and transformers build.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from bench.core.headers import TensorInfo
from bench.model.pipeline.configs import TextConfig, UNetConfig, VaeConfig

__all__ = ["Shapes", "in_new_words", "text_tensors", "unet_tensors", "vae_tensors"]

Shapes: TypeAlias = Iterator[tuple[str, tuple[int, ...]]]
"""Names and shapes, as they come: who reads them ends at the first that is wrong, however many are asked for."""

_GATED: Final = 8
"""A feed-forward layer of a UNet is four times as wide, and has a gate as wide."""
_OLD_ATTENTION: Final = re.compile(r"(mid_block\.attentions\.0)\.(query|key|value|proj_attn)\.")
_NEW_ATTENTION: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unet_tensors(unet: UNetConfig) -> Shapes:
    """Of a ``UNet2DConditionModel``."""
    widths, last = unet.block_out_channels, len(unet.block_out_channels) - 1
    time = 4 * widths[0]
    deep = _each(unet.layers_per_block, len(widths))
    depths = _each(unet.transformer_layers_per_block, len(widths))

    def block(prefix: str, kind: str, inputs: Sequence[int], width: int, depth: int) -> Shapes:
        for layer, before in enumerate(inputs):
            yield from _residual(f"{prefix}.resnets.{layer}", before, width, time)
            if kind.startswith("CrossAttn"):
                yield from _attention(f"{prefix}.attentions.{layer}", width, depth, unet)

    yield from _convolution("conv_in", unet.in_channels, widths[0], unet.conv_in_kernel)
    yield from _linear("time_embedding.linear_1", widths[0], time)
    yield from _linear("time_embedding.linear_2", time, time)
    if unet.addition_embed_type is not None:
        told = unet.projection_class_embeddings_input_dim or 0
        yield from _linear("add_embedding.linear_1", told, time)
        yield from _linear("add_embedding.linear_2", time, time)
    for at, (kind, width) in enumerate(zip(unet.down_block_types, widths, strict=True)):
        prefix, before = f"down_blocks.{at}", widths[max(0, at - 1)]
        inputs = [before, *[width] * (deep[at] - 1)]
        yield from block(prefix, kind, inputs, width, depths[at])
        if at < last:
            yield from _convolution(f"{prefix}.downsamplers.0.conv", width, width)
    if unet.mid_block_type is not None:
        yield from _residual("mid_block.resnets.0", widths[-1], widths[-1], time)
        yield from _attention("mid_block.attentions.0", widths[-1], depths[-1], unet)
        yield from _residual("mid_block.resnets.1", widths[-1], widths[-1], time)
    for at, up in enumerate(unet.up_block_types):
        level = last - at
        prefix, width, below = f"up_blocks.{at}", widths[level], widths[min(level + 1, last)]
        layers = deep[level] + 1
        # Each layer is given a state of the way down too; the last one gets that which the block was given there.
        skipped = [*[width] * (layers - 1), widths[max(0, level - 1)]]
        inputs = [b + s for b, s in zip([below, *[width] * (layers - 1)], skipped, strict=True)]
        yield from block(prefix, up, inputs, width, depths[level])
        if at < last:
            yield from _convolution(f"{prefix}.upsamplers.0.conv", width, width)
    yield from _norm("conv_norm_out", widths[0])
    yield from _convolution("conv_out", widths[0], unet.out_channels, unet.conv_out_kernel)


def vae_tensors(vae: VaeConfig) -> Shapes:
    """Of an ``AutoencoderKL``."""
    yield from _coder("encoder", "down", vae, vae.block_out_channels, vae.layers_per_block)
    yield from _coder("decoder", "up", vae, vae.block_out_channels[::-1], vae.layers_per_block + 1)
    latent = vae.latent_channels
    if vae.use_quant_conv:
        yield from _convolution("quant_conv", 2 * latent, 2 * latent, 1)
    if vae.use_post_quant_conv:
        yield from _convolution("post_quant_conv", latent, latent, 1)


def text_tensors(text: TextConfig, projected: bool) -> Shapes:
    """Of a ``CLIPTextModel``, whose names begin nowhere with ``text_model``.

    Args:
        text: Its configuration.
        projected: It is a ``CLIPTextModelWithProjection``.
    """
    width, inner = text.hidden_size, text.intermediate_size
    yield "embeddings.token_embedding.weight", (text.vocab_size, width)
    yield "embeddings.position_embedding.weight", (text.max_position_embeddings, width)
    yield from _norm("final_layer_norm", width)
    for layer in range(text.num_hidden_layers):
        prefix = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{prefix}.self_attn.{name}", width, width)
        yield from _norm(f"{prefix}.layer_norm1", width)
        yield from _norm(f"{prefix}.layer_norm2", width)
        yield from _linear(f"{prefix}.mlp.fc1", width, inner)
        yield from _linear(f"{prefix}.mlp.fc2", inner, width)
    if projected:
        yield "text_projection.weight", (text.projection_dim, width)


def in_new_words(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of a file by the names of today: diffusers renames an autoencoder's attention of 2022 likewise."""

    def renamed(name: str) -> str:
        return _OLD_ATTENTION.sub(lambda old: f"{old[1]}.{_NEW_ATTENTION[old[2]]}.", name)

    return {renamed(name): tensor for name, tensor in tensors.items()}


def _coder(part: str, side: str, vae: VaeConfig, widths: Sequence[int], layers: int) -> Shapes:
    """Half of an autoencoder, with its blocks in order."""
    deepest = vae.block_out_channels[-1]
    ends = (vae.in_channels, widths[0]) if side == "down" else (vae.latent_channels, deepest)
    yield from _convolution(f"{part}.conv_in", *ends)
    for at, width in enumerate(widths):
        prefix = f"{part}.{side}_blocks.{at}"
        for layer in range(layers):
            before = width if layer else widths[max(0, at - 1)]
            yield from _residual(f"{prefix}.resnets.{layer}", before, width)
        if at < len(widths) - 1:
            yield from _convolution(f"{prefix}.{side}samplers.0.conv", width, width)
    yield from _residual(f"{part}.mid_block.resnets.0", deepest, deepest)
    if vae.mid_block_add_attention:
        prefix = f"{part}.mid_block.attentions.0"
        yield from _norm(f"{prefix}.group_norm", deepest)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from _linear(f"{prefix}.{name}", deepest, deepest)
    yield from _residual(f"{part}.mid_block.resnets.1", deepest, deepest)
    yield from _norm(f"{part}.conv_norm_out", widths[-1])
    out = 2 * vae.latent_channels if side == "down" else vae.out_channels
    yield from _convolution(f"{part}.conv_out", widths[-1], out)


def _each(number: int | Sequence[int], blocks: int) -> list[int]:
    return [number] * blocks if isinstance(number, int) else list(number)


def _residual(prefix: str, before: int, width: int, time: int | None = None) -> Shapes:
    yield from _norm(f"{prefix}.norm1", before)
    yield from _convolution(f"{prefix}.conv1", before, width)
    if time is not None:
        yield from _linear(f"{prefix}.time_emb_proj", time, width)
    yield from _norm(f"{prefix}.norm2", width)
    yield from _convolution(f"{prefix}.conv2", width, width)
    if before != width:
        yield from _convolution(f"{prefix}.conv_shortcut", before, width, 1)


def _attention(prefix: str, width: int, depth: int, unet: UNetConfig) -> Shapes:
    """Transformer blocks between two projections, which are convolutions in old networks."""
    yield from _norm(f"{prefix}.norm", width)
    for name in ("proj_in", "proj_out"):
        if unet.use_linear_projection:
            yield from _linear(f"{prefix}.{name}", width, width)
        else:
            yield from _convolution(f"{prefix}.{name}", width, width, 1)
    for block in range(depth):
        inner = f"{prefix}.transformer_blocks.{block}"
        for name in ("norm1", "norm2", "norm3"):
            yield from _norm(f"{inner}.{name}", width)
        for attention, seen in (("attn1", width), ("attn2", unet.cross_attention_dim)):
            yield f"{inner}.{attention}.to_q.weight", (width, width)
            yield f"{inner}.{attention}.to_k.weight", (width, seen)
            yield f"{inner}.{attention}.to_v.weight", (width, seen)
            yield from _linear(f"{inner}.{attention}.to_out.0", width, width)
        yield from _linear(f"{inner}.ff.net.0.proj", width, _GATED * width)
        yield from _linear(f"{inner}.ff.net.2", _GATED * width // 2, width)


def _convolution(name: str, before: int, width: int, side: int = 3) -> Shapes:
    yield f"{name}.weight", (width, before, side, side)
    yield f"{name}.bias", (width,)


def _linear(name: str, before: int, width: int) -> Shapes:
    yield f"{name}.weight", (width, before)
    yield f"{name}.bias", (width,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
