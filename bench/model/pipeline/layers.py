"""The tensors that networks of Stable Diffusion's classes have, by their configurations: names, not shapes.

Left out is what a layer has only where it changes its width, and the autoencoder's attention, whose
names changed over the years.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

__all__ = ["unet_tensors", "vae_tensors"]


def unet_tensors(
    down: Sequence[str],
    up: Sequence[str],
    middle: str | None,
    layers: int | Sequence[int],
    transformers: int | Sequence[int],
    more: Sequence[str] = (),
) -> Iterator[str]:
    """Names of a ``UNet2DConditionModel``.

    Args:
        down: Classes of the blocks on the way down.
        up: Classes of the blocks on the way up.
        middle: Class of the block between; ``None`` where there is none.
        layers: Residual layers of a block on the way down, for all or one by one; those on the way
            up have one more.
        transformers: Transformer blocks of an attention layer, for all or one by one.
        more: Layers beside these.
    """
    count = len(down)
    deep = [layers] * count if isinstance(layers, int) else list(layers)
    wide = [transformers] * count if isinstance(transformers, int) else list(transformers)
    for name in ("conv_in", "conv_norm_out", "conv_out", "time_embedding.linear_1"):
        yield from _both(name)
    for name in ("time_embedding.linear_2", *more):
        yield from _both(name)
    for block, kind in enumerate(down):
        prefix = f"down_blocks.{block}"
        yield from _layers(prefix, kind, deep[block], wide[block])
        if block < count - 1:
            yield from _both(f"{prefix}.downsamplers.0.conv")
    for block, kind in enumerate(up):
        prefix = f"up_blocks.{block}"
        yield from _layers(prefix, kind, deep[count - 1 - block] + 1, wide[count - 1 - block])
        if block < count - 1:
            yield from _both(f"{prefix}.upsamplers.0.conv")
    if middle is not None:
        for layer in range(2):
            yield from _residual(f"mid_block.resnets.{layer}", "time_emb_proj")
        yield from _attention("mid_block.attentions.0", wide[-1])


def vae_tensors(blocks: int, layers: int) -> Iterator[str]:
    """Names of an ``AutoencoderKL``.

    Args:
        blocks: Of its encoder, and as many of its decoder.
        layers: Residual layers of an encoder's block; a decoder's has one more.
    """
    for part, side, more in (("encoder", "down", 0), ("decoder", "up", 1)):
        for name in ("conv_in", "conv_norm_out", "conv_out"):
            yield from _both(f"{part}.{name}")
        for layer in range(2):
            yield from _residual(f"{part}.mid_block.resnets.{layer}")
        for block in range(blocks):
            prefix = f"{part}.{side}_blocks.{block}"
            for layer in range(layers + more):
                yield from _residual(f"{prefix}.resnets.{layer}")
            if block < blocks - 1:
                yield from _both(f"{prefix}.{side}samplers.0.conv")


def _layers(prefix: str, kind: str, layers: int, transformers: int) -> Iterator[str]:
    for layer in range(layers):
        yield from _residual(f"{prefix}.resnets.{layer}", "time_emb_proj")
        if kind.startswith("CrossAttn"):
            yield from _attention(f"{prefix}.attentions.{layer}", transformers)


def _residual(prefix: str, *more: str) -> Iterator[str]:
    for name in ("norm1", "conv1", "norm2", "conv2", *more):
        yield from _both(f"{prefix}.{name}")


def _attention(prefix: str, transformers: int) -> Iterator[str]:
    for name in ("norm", "proj_in", "proj_out"):
        yield from _both(f"{prefix}.{name}")
    for block in range(transformers):
        inner = f"{prefix}.transformer_blocks.{block}"
        for name in ("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"):
            yield from _both(f"{inner}.{name}")
        for attention in ("attn1", "attn2"):
            yield from (f"{inner}.{attention}.to_{letter}.weight" for letter in "qkv")
            yield from _both(f"{inner}.{attention}.to_out.0")


def _both(name: str) -> Iterator[str]:
    return chain((f"{name}.weight",), (f"{name}.bias",))
