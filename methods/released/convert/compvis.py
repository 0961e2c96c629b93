"""The names of the original Stable Diffusion made diffusers', by diffusers' own converter.

The converter is handed names in place of values, and says which goes where. It counts blocks by the names that
it meets, so that a file of the cross-attention alone would come out wrong. The blocks that such a
file lacks are named for it, and what comes of them is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from bench.core.errors import UsageError, shown

__all__ = ["LAYERS", "diffusers_names", "is_compvis"]

LAYERS: Final = 2
"""Layers per block of Stable Diffusion 1.x and 2.x."""

_UNET: Final = "model.diffusion_model."
_TEXT: Final = "cond_stage_model.transformer."
_SECOND: Final = "cond_stage_model.model."
_BLOCKS: Final = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "out.")
_BLOCK: Final = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d{1,3})\.")
_DOWN: Final = re.compile(rf"{re.escape(_UNET)}input_blocks\.(\d{{1,3}})\.0\.op\.weight")
_NO_EDIT: Final = re.compile(
    r"first_stage_model\..*|cond_stage_model\.logit_scale|model_ema\.(decay|num_updates)|[^.]+"
    r"|.*position_ids"
)
"""The VAE, tables of the schedule and counters."""


def is_compvis(name: str) -> bool:
    """Whether a name is of the original Stable Diffusion."""
    bare = name.removeprefix("unet.").removeprefix("model.").removeprefix("diffusion_model.")
    return bare.startswith(_BLOCKS) or name.startswith(("cond_stage_model.", "first_stage_model."))


def diffusers_names(
    names: Mapping[str, str], layers: int | None, origin: object
) -> tuple[dict[str, str], list[str]]:
    """The old name of each of diffusers', and what has none there.

    Args:
        names: Of each original name, the name in the raw file.
        layers: Layers per block of the UNet; ``None``: as the file tells, or else two.
        origin: For errors.

    Raises:
        UsageError: a name of the UNet or of the text encoder that the converter does not know.
    """
    full = {_whole(name): old for name, old in names.items()}
    if second := [name for name in full if name.startswith(_SECOND)]:
        raise UsageError(
            f"expected a text encoder of Stable Diffusion 1.x, got that of 2.x in {origin} "
            f"({shown(second[0])}); give the folder that diffusers saved"
        )
    new = {**_unet(full, layers), **_text(full)}
    taken = set(new.values())
    lost = [name for name in full if name not in taken]
    if foreign := [name for name in lost if not _NO_EDIT.fullmatch(name)]:
        raise UsageError(
            f"expected names of the original Stable Diffusion, got {len(foreign)} others in "
            f"{origin}, e.g. {', '.join(map(shown, foreign[:3]))}; give the model's state dict"
        )
    return {name: full[old] for name, old in new.items()}, lost


def _whole(name: str) -> str:
    """The name as it is in a whole model: some save the network below it alone."""
    if name.startswith((*_BLOCKS, "diffusion_model.", "unet.")) and is_compvis(name):
        return _UNET + name.removeprefix("unet.").removeprefix("diffusion_model.")
    return name


def _unet(full: Mapping[str, str], layers: int | None) -> dict[str, str]:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    values = {name: name for name in full if name.startswith(_UNET)}
    if not values:
        return {}
    last: dict[str, int] = {}
    for match in filter(None, (_BLOCK.match(name.removeprefix(_UNET)) for name in values)):
        last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    blocks = {f"{_UNET}{kind}.{i}.": "" for kind, most in last.items() for i in range(most + 1)}
    if (
        layers is None
    ):  # the first block that makes the image smaller comes after one for each layer
        ends = [int(match[1]) for match in map(_DOWN.fullmatch, values) if match]
        layers = min(ends) - 1 if ends else LAYERS
    found = convert_ldm_unet_checkpoint({**blocks, **values}, {"layers_per_block": layers})
    return {f"unet.{name}": old for name, old in found.items() if old}


def _text(full: Mapping[str, str]) -> dict[str, str]:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint

    values = {name: name for name in full if name.startswith(_TEXT)}
    found = convert_ldm_clip_checkpoint(values)
    return {f"text_encoder.{n}": o for n, o in found.items() if not n.endswith("position_ids")}
