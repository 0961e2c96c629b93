"""Do a base's networks fit each other, this suite and their own files?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.core.errors import UsageError, shown
from bench.core.headers import TensorInfo
from bench.core.json_files import read_object
from bench.model.pipeline.configs import TextConfig, UNetConfig, VaeConfig, validated
from bench.model.pipeline.layers import unet_tensors, vae_tensors

__all__ = ["Sizes", "check_sizes"]

_CONDITIONS: Final = (
    "class_embed_type", "num_class_embeds", "encoder_hid_dim",
    "encoder_hid_dim_type", "time_cond_proj_dim",
)  # fmt: skip
"""Each asks for an input besides latents, timestep and text states."""
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


def check_sizes(
    folder: Path, tensors: Mapping[str, Mapping[str, TensorInfo]], encoders: Sequence[str]
) -> Sizes:
    """The sizes of a base whose networks fit each other, and whose files fit their configurations.

    Args:
        folder: The base's.
        tensors: Of each network, by name.
        encoders: Its text encoders. With a second one the UNet is told the second's pooled vector and
            sizes, as SDXL's is.

    Raises:
        UsageError: one does not, or the UNet asks for inputs that this suite does not give.
    """
    paths = {part: folder / part / "config.json" for part in ("unet", "vae", *encoders)}
    raw = {part: read_object(path) for part, path in paths.items()}
    _check_kind(raw["unet"], "UNet2DConditionModel", paths["unet"])
    _check_kind(raw["vae"], "AutoencoderKL", paths["vae"])
    for part, config in raw.items():
        if config.get("quantization_config") is not None:
            raise UsageError(f"{paths[part]}: quantization_config: quantised weights are not read")
    _check_conditions(raw["unet"], paths["unet"])
    unet = validated(UNetConfig, raw["unet"], paths["unet"])
    vae = validated(VaeConfig, raw["vae"], paths["vae"])
    texts = {part: validated(TextConfig, raw[part], paths[part]) for part in encoders}
    for part in encoders:
        if (model := raw[part].get("model_type", "clip_text_model")) != "clip_text_model":
            raise UsageError(
                f"{paths[part]}: model_type: expected clip_text_model, got {shown(model)}"
            )
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
    for part, one in texts.items():
        _check_text(one, tensors[part], paths[part])
        for key in ("max_position_embeddings", "vocab_size"):
            if (found := getattr(one, key)) != getattr(text, key):
                raise UsageError(
                    f"{paths[part]}: {key}: expected {getattr(text, key)}, as the first text encoder "
                    f"has, got {found}"
                )
    _check_added(unet, last.projection_dim if len(texts) > 1 else None, paths["unet"])
    if len(texts) > 1:
        projection = {"text_projection.weight": (last.projection_dim, last.hidden_size)}
        _check_shapes(projection, tensors[encoders[-1]], paths[encoders[-1]])
    _check_unet(unet, tensors["unet"], paths["unet"])
    _check_vae(vae, tensors["vae"], paths["vae"])
    side = _side(unet.sample_size, raw["unet"])
    return Sizes(
        latent_channels=vae.latent_channels,
        latent_side=side,
        image_side=side * 2 ** (len(vae.block_out_channels) - 1),
        context_width=width,
        context_length=text.max_position_embeddings,
        words=text.vocab_size,
    )


def _check_kind(config: Mapping[str, Any], expected: str, path: Path) -> None:
    if (name := config.get("_class_name", expected)) != expected:
        raise UsageError(f"{path}: _class_name: expected {expected}, got {shown(name)}")


def _check_conditions(config: Mapping[str, Any], path: Path) -> None:
    for key in _CONDITIONS:
        if config.get(key) is not None:
            raise UsageError(
                f"{path}: {key}: expected null, got {shown(config[key])}; a UNet that asks for more "
                "than latents, a timestep and text states is not supported"
            )
    size = config.get("sample_size")
    if type(size) is not int:
        raise UsageError(
            f"{path}: sample_size: expected one number, the side of a square latent, got {shown(size)}"
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


def _check_text(text: TextConfig, tensors: Mapping[str, TensorInfo], path: Path) -> None:
    if text.hidden_size % text.num_attention_heads:
        raise UsageError(
            f"{path}: hidden_size: expected a multiple of the {text.num_attention_heads} heads, "
            f"got {text.hidden_size}"
        )
    width = text.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (text.vocab_size, width),
        "embeddings.position_embedding.weight": (text.max_position_embeddings, width),
        "final_layer_norm.weight": (width,),
        "final_layer_norm.bias": (width,),
    }
    inner = text.intermediate_size
    for layer in range(text.num_hidden_layers):
        prefix = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (width, width)
            shapes[f"{prefix}.self_attn.{name}.bias"] = (width,)
        for name in ("layer_norm1", "layer_norm2"):
            shapes[f"{prefix}.{name}.weight"] = shapes[f"{prefix}.{name}.bias"] = (width,)
        shapes[f"{prefix}.mlp.fc1.weight"], shapes[f"{prefix}.mlp.fc1.bias"] = (
            (inner, width),
            (inner,),
        )
        shapes[f"{prefix}.mlp.fc2.weight"], shapes[f"{prefix}.mlp.fc2.bias"] = (
            (width, inner),
            (width,),
        )
    # transformers 4 wrote every name below text_model.
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    _check_shapes(shapes, plain, path)


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
            "num_attention_heads": unet.num_attention_heads,
        },
    )
    _check_groups(widths, unet.norm_num_groups, path)
    names = unet_tensors(
        unet.down_block_types, unet.up_block_types, unet.mid_block_type, unet.layers_per_block,
        unet.transformer_layers_per_block,
        () if unet.addition_embed_type is None else ("add_embedding.linear_1", "add_embedding.linear_2"),
    )  # fmt: skip
    _check_names(names, tensors, path)
    kernel = (unet.conv_in_kernel, unet.conv_in_kernel)
    shapes: dict[str, tuple[int, ...]] = {
        "conv_in.weight": (widths[0], unet.in_channels, *kernel),
        "time_embedding.linear_1.weight": (4 * widths[0], widths[0]),
    }
    if unet.projection_class_embeddings_input_dim and unet.addition_embed_type:
        told = unet.projection_class_embeddings_input_dim
        shapes["add_embedding.linear_1.weight"] = (4 * widths[0], told)
    for block, width in enumerate(widths):
        before = widths[max(0, block - 1)]
        shapes[f"down_blocks.{block}.resnets.0.conv1.weight"] = (width, before, 3, 3)
    _check_shapes(shapes, tensors, path)


def _check_vae(vae: VaeConfig, tensors: Mapping[str, TensorInfo], path: Path) -> None:
    widths = vae.block_out_channels
    kinds = {"down_block_types": vae.down_block_types, "up_block_types": vae.up_block_types}
    _check_lengths(len(widths), path, kinds)
    _check_groups(widths, vae.norm_num_groups, path)
    _check_names(vae_tensors(len(widths), vae.layers_per_block), tensors, path)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.conv_in.weight": (widths[0], vae.in_channels, 3, 3),
        "decoder.conv_in.weight": (widths[-1], vae.latent_channels, 3, 3),
        "decoder.conv_out.weight": (vae.out_channels, widths[0], 3, 3),
    }
    for block, width in enumerate(widths):
        before = widths[max(0, block - 1)]
        shapes[f"encoder.down_blocks.{block}.resnets.0.conv1.weight"] = (width, before, 3, 3)
    _check_shapes(shapes, tensors, path)


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


def _check_names(names: Iterable[str], tensors: Mapping[str, TensorInfo], path: Path) -> None:
    for name in names:  # it ends at the first, however many layers the file asks for
        if name not in tensors:
            raise UsageError(f"{path.parent}: the weights lack {name}, which {path.name} asks for")


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, TensorInfo], path: Path
) -> None:
    _check_names(shapes, tensors, path)
    for name, shape in shapes.items():
        if (found := tensors[name].shape) != shape:
            raise UsageError(
                f"{path.parent}: {name} has the shape {found}, and {path.name} asks for {shape}"
            )


def _side(sample_size: int, config: Mapping[str, Any]) -> int:
    """The latent's side that diffusers gives: it takes files before version 0.9 to be wrong below 64."""
    version = re.match(r"0\.(\d+)\.", str(config.get("_diffusers_version", "")))
    old = version is not None and int(version[1]) < 9
    return max(64, sample_size) if old else sample_size
