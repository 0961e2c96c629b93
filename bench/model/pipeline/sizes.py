"""Do a base's networks fit each other, this suite and their own files?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.core.errors import UsageError, shown
from bench.core.headers import TensorInfo
from bench.model.pipeline.configs import TextConfig, UNetConfig, VaeConfig
from bench.model.pipeline.layers import Shapes, text_tensors, unet_tensors, vae_tensors
from bench.model.pipeline.networks import Networks

__all__ = ["Sizes", "check_sizes"]

_SIZES: Final = 6
"""Height and width of the original, of the crop's corner and of the target."""
_CHANNELS: Final = {8: "an image to edit", 9: "inpainting", 5: "a depth map", 7: "upscaling"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of what a base's networks take and give.

    Attributes:
        latent_channels: Channels of a latent.
        latent_side: Cells of its side, at the base's own size.
        image_side: Pixels of an image's side.
        context_width: Numbers of a text state.
        context_length: Tokens of a prompt, the special ones included.
        words: Rows of the text encoder's table of tokens.
    """

    latent_channels: int
    latent_side: int
    image_side: int
    context_width: int
    context_length: int
    words: int


def check_sizes(networks: Networks, tensors: Mapping[str, Mapping[str, TensorInfo]]) -> Sizes:
    """The sizes of a base whose networks fit each other, and whose files hold what their configurations ask for.

    With a second text encoder the UNet is told the second's pooled vector and sizes, as SDXL's is.

    Args:
        networks: Their configurations.
        tensors: Of each network, by name.

    Raises:
        UsageError: one does not, or the UNet asks for inputs that this suite does not give.
    """
    unet, vae, texts, paths = networks.unet, networks.vae, networks.texts, networks.paths
    encoders = list(texts)
    text, last = texts[encoders[0]], texts[encoders[-1]]
    for key in ("in_channels", "out_channels"):
        if (count := getattr(unet, key)) != vae.latent_channels:
            why = f" (a UNet for {_CHANNELS[count]})" if count in _CHANNELS else ""
            raise UsageError(
                f"{paths['unet']}: {key}: expected the VAE's {vae.latent_channels}, got {count}{why}"
            )
    width = sum(one.hidden_size for one in texts.values())
    if unet.cross_attention_dim != width:
        whose = "text encoder's" if len(texts) == 1 else "text encoders'"
        raise UsageError(
            f"{paths['unet']}: cross_attention_dim: expected the width of the {whose} states, "
            f"{width}, got {unet.cross_attention_dim}"
        )
    _check_added(unet, last.projection_dim if len(texts) > 1 else None, paths["unet"])
    for part, one in texts.items():
        _check_text(one, tensors[part], paths[part], projected=part != encoders[0])
        for key in ("max_position_embeddings", "vocab_size"):
            if (found := getattr(one, key)) != getattr(text, key):
                raise UsageError(
                    f"{paths[part]}: {key}: expected {getattr(text, key)}, as the first text encoder "
                    f"has, got {found}"
                )
    _check_unet(unet, tensors["unet"], paths["unet"])
    _check_vae(vae, tensors["vae"], paths["vae"])
    return Sizes(
        latent_channels=vae.latent_channels,
        latent_side=networks.latent_side,
        image_side=networks.image_side,
        context_width=width,
        context_length=text.max_position_embeddings,
        words=text.vocab_size,
    )


def _check_added(unet: UNetConfig, pooled: int | None, path: Path) -> None:
    """Holds the UNet's further conditions against what it is told: a pooled vector and six sizes, or nothing."""
    if pooled is None:
        if unet.addition_embed_type is not None:
            raise UsageError(
                f"{path}: addition_embed_type: expected null, got {shown(unet.addition_embed_type)}; "
                "with one text encoder a UNet is told latents, a timestep and text states"
            )
        return
    if unet.addition_embed_type is None or unet.addition_time_embed_dim is None:
        raise UsageError(
            f"{path}: addition_embed_type: expected 'text_time' and its addition_time_embed_dim, got "
            f"{shown(unet.addition_embed_type)} and {shown(unet.addition_time_embed_dim)}"
        )
    width = pooled + _SIZES * unet.addition_time_embed_dim
    if (found := unet.projection_class_embeddings_input_dim) != width:
        raise UsageError(
            f"{path}: projection_class_embeddings_input_dim: expected {width}, a pooled vector of "
            f"{pooled} and {_SIZES} sizes of {unet.addition_time_embed_dim}, got {shown(found)}"
        )


def _check_text(
    text: TextConfig, tensors: Mapping[str, TensorInfo], path: Path, *, projected: bool
) -> None:
    if text.hidden_size % text.num_attention_heads:
        raise UsageError(
            f"{path}: hidden_size: expected a multiple of the {text.num_attention_heads} heads, "
            f"got {text.hidden_size}"
        )
    # transformers 4 wrote every name below text_model.
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    _check_shapes(text_tensors(text, projected), plain, path)


def _check_unet(unet: UNetConfig, tensors: Mapping[str, TensorInfo], path: Path) -> None:
    widths = unet.block_out_channels
    _check_lengths(
        len(widths),
        path,
        {
            "down_block_types": unet.down_block_types,
            "up_block_types": unet.up_block_types,
            "layers_per_block": unet.layers_per_block,
            "transformer_layers_per_block": unet.transformer_layers_per_block,
            "attention_head_dim": unet.attention_head_dim,
        },
    )
    _check_groups(widths, unet.norm_num_groups, path)
    _check_heads(unet, path)
    _check_shapes(unet_tensors(unet), tensors, path)


def _check_vae(vae: VaeConfig, tensors: Mapping[str, TensorInfo], path: Path) -> None:
    widths = vae.block_out_channels
    kinds = {"down_block_types": vae.down_block_types, "up_block_types": vae.up_block_types}
    _check_lengths(len(widths), path, kinds)
    _check_groups(widths, vae.norm_num_groups, path)
    _check_shapes(vae_tensors(vae), tensors, path)


def _check_lengths(blocks: int, path: Path, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        if isinstance(value, list) and len(value) != blocks:
            raise UsageError(
                f"{path}: {key}: expected {blocks} items, as block_out_channels has, got {len(value)}"
            )


def _check_groups(widths: Sequence[int], groups: int, path: Path) -> None:
    if odd := [width for width in widths if width % groups]:
        raise UsageError(
            f"{path}: norm_num_groups: expected a divisor of {odd[0]} in block_out_channels, got {groups}"
        )


def _check_heads(unet: UNetConfig, path: Path) -> None:
    """Refuses heads that do not share the width of their block; blocks without attention have none."""
    given = unet.attention_head_dim
    heads = given if isinstance(given, list) else [given] * len(unet.block_out_channels)
    kinds = [*unet.down_block_types, *unet.up_block_types[::-1]]
    levels = [at % len(heads) for at, kind in enumerate(kinds) if kind.startswith("CrossAttn")]
    if unet.mid_block_type is not None:
        levels.append(len(heads) - 1)
    for level in levels:
        if (width := unet.block_out_channels[level]) % heads[level]:
            place = f"[{level}]" if isinstance(given, list) else ""
            raise UsageError(
                f"{path}: attention_head_dim{place}: expected a divisor of {width} in "
                f"block_out_channels, got {heads[level]}"
            )


def _check_shapes(shapes: Shapes, tensors: Mapping[str, TensorInfo], path: Path) -> None:
    for name, shape in shapes:  # it ends at the first, however many layers the file asks for
        if name not in tensors:
            raise UsageError(f"{path.parent}: the weights lack {name}, which {path.name} asks for")
        if (found := tensors[name].shape) != shape:
            raise UsageError(
                f"{path.parent}: {name} has the shape {found}, and {path.name} asks for {shape}"
            )
