"""Writes the miniature's parameters under the names of the original Stable Diffusion."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["LAYERS", "compvis"]

LAYERS = 1
"""Layers per block of the miniature."""

_TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_BLOCK = re.compile(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.*)")


def compvis(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters ``unet.…`` and ``text_encoder.…`` under the names that a model of CompVis has."""
    looked = {name.split(".")[2] for name in parameters if ".up_blocks." in name and "attn" in name}
    return {_name(name, looked): value.clone() for name, value in parameters.items()}


def _name(full: str, looked: set[str]) -> str:
    part, _, name = full.partition(".")
    if part == "text_encoder":
        return f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"
    return f"model.diffusion_model.{_in_unet(name, looked)}"


def _in_unet(name: str, looked: set[str]) -> str:
    module, _, rest = name.rpartition(".")
    if module in _TOP:
        return f"{_TOP[module]}.{rest}"
    match = _BLOCK.fullmatch(name)
    assert match
    way, block, kind, number, rest = match.groups()
    index, first = int(number), rest.partition(".")[0]
    if kind == "resnets":
        rest = rest.replace(first, _RESNET[first], 1)
    attention = kind == "attentions"
    if way == "mid":
        return f"middle_block.{1 if attention else 2 * index}.{rest}"
    index = LAYERS if kind.endswith("samplers") else index
    place = int(block) * (LAYERS + 1) + index
    if way == "down":
        rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
        return f"input_blocks.{place + 1}.{int(attention)}.{rest}"
    if kind == "upsamplers":  # it shares a block with the last layer
        return f"output_blocks.{place}.{1 + (block in looked)}.{rest}"
    return f"output_blocks.{place}.{int(attention)}.{rest}"
