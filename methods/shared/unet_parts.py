"""Parts of a UNet that ESD trains, and what was built on it: the sets of its authors' code (arXiv 2303.07345)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from bench.interfaces import Role
from bench.model.text_to_image import TextToImage

__all__ = ["Release", "Variant", "needs", "trained"]

Variant = Literal["x", "x-strict", "u", "all", "self"]
Release = Literal["2023", "2025"]

_NEEDS: Final[Mapping[Variant, frozenset[Role]]] = {
    "x": frozenset({Role.CROSS_ATTENTION}),
    "x-strict": frozenset({Role.TEXT_KEYS_AND_VALUES}),
    "u": frozenset({Role.DENOISER, Role.CROSS_ATTENTION}),
    "all": frozenset({Role.DENOISER}),
    "self": frozenset({Role.SELF_ATTENTION}),
}


def needs(variant: Variant) -> frozenset[Role]:
    """The roles that a base's parameters must have."""
    return _NEEDS[variant]


def trained(model: TextToImage, variant: Variant, release: Release) -> list[str]:
    """The parameters that a variant trains.

    ``x`` is the cross-attention, ``x-strict`` its keys and values, ``u`` the rest of the UNet, ``all``
    everything, ``self`` the self-attention. The releases differ in the rest. That of 2023 trains
    norms, but neither the embedding of time nor the last norm and convolution. That of 2025 trains
    linear layers and convolutions, these two among them, and no norm.
    """
    names = model.having(*_NEEDS[variant])
    match variant, release:
        case ("x" | "x-strict" | "self", _) | ("all", "2023"):
            return names
        case "u", "2023":
            others = {Role.CROSS_ATTENTION, Role.TIME_EMBEDDING, Role.OUTPUT}
        case "u", _:
            others = {Role.CROSS_ATTENTION, Role.NORM}
        case _:
            others = {Role.NORM}  # what is neither a norm nor inside one is linear or a convolution
    return [name for name in names if not others & model.roles_of(name)]
