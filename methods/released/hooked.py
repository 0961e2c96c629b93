"""Adapters that act in the forward pass, from the files of their authors: SPM's with its gate, and Receler's.

The layers are compared with the base by names and shapes alone; the tensors are read when the edit is made.
ACE's files are SPM's, of a higher rank: its script has the same gate unless it is told otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.core.errors import UsageError, shown
from bench.model.hooks import Hook
from bench.model.text_to_image import TextToImage
from methods.released.files import Network
from methods.released.lora import Layer, Shapes, is_lora, layers
from methods.shared.erasers import MAPS, Erasers
from methods.shared.prompt_gates import GatedAdapters, gate_tensors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GATED", "check_hook", "hook_of", "is_erasers", "is_gated", "kind_of", "some_effect"]

GATED = "prompts"
"""The key of metadata by which SPM's files name the texts that their gate compares."""
_ERASER = re.compile(r"(?P<block>.*attentions\.\d+)\.(?P<part>(down|up)\.(weight|bias))")
_MOST = 1000
_SECOND = re.compile(r".*(up|lora_B)(\.\w+)?\.(weight|bias)")
_BASE = "give the model that it was made from as base"


def is_gated(network: Network) -> bool:
    """Whether a file holds low-rank adapters with a gate, by its names and metadata."""
    return GATED in network.metadata and is_lora(network.tensors)


def is_erasers(network: Network) -> bool:
    """Whether a file holds Receler's adapters, by its names."""
    return any(_ERASER.fullmatch(name) for name in network.tensors)


def kind_of(network: Network) -> type[Hook]:
    """The hook that a file becomes."""
    return GatedAdapters if is_gated(network) else Erasers


def some_effect(network: Network) -> bool:
    """Whether a file changes anything: fresh adapters have zeros in their second half."""
    return any(bool(network.value(n).any()) for n in network.tensors if _SECOND.fullmatch(n))


def check_hook(known: Shapes, network: Network) -> None:
    """Refuses a file that does not suit a base.

    Args:
        known: Shapes of the base's parameters.
        network: The file.

    Raises:
        UsageError: it does not, or is not complete.
    """
    if is_gated(network):
        _texts(network)
        _gated(known, network)
    else:
        _erasers(known, network)


def hook_of(model: TextToImage, known: Shapes, network: Network) -> tuple[Hook, dict[str, Tensor]]:
    """The hook of a file and its tensors, for a model whose parameters have the shapes ``known``.

    Raises:
        UsageError: as :func:`check_hook`, or a value is not finite.
    """
    if not is_gated(network):
        named = _erasers(known, network)
        return Erasers(), {name: network.value(old) for name, old in named.items()}
    tensors: dict[str, Tensor] = {}
    for layer in _gated(known, network):
        name = layer.parameter.removesuffix(".weight")
        down, up = (network.value(half).flatten(1) for half in (layer.down, layer.up))
        tensors[f"{name}/down"] = down[None]
        tensors[f"{name}/up"] = (layer.strength * up.float()).to(up.dtype)[None]
    return GatedAdapters(), {**tensors, **gate_tensors(model, [_texts(network)])}


def _texts(network: Network) -> list[str]:
    said = network.metadata[GATED]
    texts = [text.strip() for text in said.split(",") if text.strip()]
    if not 0 < len(texts) <= _MOST:
        raise UsageError(
            f"expected 1 to {_MOST} texts of the gate as `{GATED}` in the metadata of {network.origin}, got "
            f"{len(texts)}; fetch it again"
        )
    return texts


def _gated(known: Shapes, network: Network) -> list[Layer]:
    """The layers of SPM's adapters, which lie in the UNet."""

    def number(name: str) -> float:
        return float(network.value(name))

    found = layers(known, network.shapes, network.about, number, origin=network.origin)
    for layer in found:
        if not layer.parameter.startswith("unet."):
            raise UsageError(
                f"expected gated adapters of the UNet, got {layer.down} in {network.origin}; give "
                "the file as its authors released it"
            )
        if any(side != 1 for side in known[layer.parameter][2:]):
            raise UsageError(
                f"expected gated adapters of linear layers and 1 x 1 convolutions, got {layer.down} of "
                f"{list(network.shapes[layer.down])} in {network.origin}; leave that layer out"
            )
    _same_alpha(network, found)
    return found


def _same_alpha(network: Network, found: list[Layer]) -> None:
    """Refuses an alpha in the metadata, which the authors' script reads, that is not the file's own."""
    said = network.metadata.get("alpha", "")
    try:
        alpha = float(said)
    except ValueError:
        return
    for layer in found:
        own = layer.strength * network.shapes[layer.down][0]
        if not math.isclose(own, alpha, rel_tol=1e-3, abs_tol=1e-3):
            raise UsageError(
                f"expected the alpha of {layer.down} to be {alpha:g}, as the metadata of "
                f"{network.origin} say, got {own:g}; correct the metadata"
            )


def _erasers(known: Shapes, network: Network) -> dict[str, str]:
    """The file's name of each tensor of the hook: four for every cross-attention of the base."""
    if (kind := network.metadata.get("eraser_type", "adapter")) != "adapter":
        raise UsageError(
            f"expected erasers of the type adapter, got {shown(kind)} in {network.origin}; merge "
            "them into their model and give that"
        )
    names: dict[str, str] = {}
    for name in network.tensors:
        match = _ERASER.fullmatch(name)
        if match is None:
            raise UsageError(
                f"expected the erasers of Receler, got {shown(name)} beside them in "
                f"{network.origin}; give the file as its authors released it"
            )
        layer = f"unet.{match['block'].removeprefix('unet.')}.transformer_blocks.0.attn2"
        names[f"{layer}/{match['part']}"] = name
    wanted = _wanted(known)
    for odd in sorted(names.keys() ^ wanted.keys()):
        if odd in names:
            raise UsageError(
                f"expected erasers behind cross-attentions of the base, got {shown(names[odd])} in "
                f"{network.origin}; {_BASE}"
            )
        raise UsageError(
            f"expected an eraser behind every cross-attention of the base, got no {odd} in "
            f"{network.origin}; {_BASE}, or fetch the file again"
        )
    for name, old in names.items():
        width, shape = wanted[name], network.shapes[old]
        layer, _, part = name.partition("/")
        rank = sum(network.shapes[names[f"{layer}/down.weight"]][:1])
        own = dict(zip(MAPS, ((rank, width), (rank,), (width, rank), (width,)), strict=True))[part]
        if shape != own:
            raise UsageError(
                f"expected {shown(old)} of shape {list(own)}, got {list(shape)} in "
                f"{network.origin}; {_BASE}"
            )
    return names


def _wanted(known: Shapes) -> Mapping[str, int]:
    """The tensors that a hook at every cross-attention has, and the width of each layer."""
    ends = ".attn2.to_out.0.weight"
    return {
        f"{name.removesuffix('.to_out.0.weight')}/{part}": shape[0]
        for name, shape in known.items()
        if name.startswith("unet.") and name.endswith(ends)
        for part in MAPS
    }
