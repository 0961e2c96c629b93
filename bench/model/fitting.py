"""A hook with tensors, held against the model that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.core.lazy import torch
from bench.model.hooks import Fitted, Hook
from bench.model.networks import Networks

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["fitted"]


def fitted(hook: Hook, tensors: Mapping[str, Tensor], model: Networks) -> Fitted:
    """A hook with copies of tensors, on the model's device and in its precision, but for whole numbers.

    Raises:
        ValueError: it hooks no layer, or one that there is not, or a value is not finite.
    """
    held = {}
    for name, value in tensors.items():
        dtype = model.dtype if value.is_floating_point() else value.dtype
        held[name] = value.detach().to(model.device, dtype, copy=True)
        if not bool(torch.isfinite(held[name]).all()):
            raise ValueError(
                f"hook {hook.name}: {name}: its values are not finite; the edit diverged (lower its strength)"
            )
    made = Fitted(hook, held)
    if not made.layers:
        raise ValueError(f"hook {hook.name}: expected at least one layer to hook, got none")
    for name in made.layers:
        if not _is_there(name, model):
            parts = " or ".join(model.backbone.edited)
            raise ValueError(
                f"hook {hook.name}: no layer {name!r} in the base model; expected component.name of "
                f"{parts}, as model.layers(...) gives them"
            )
    return made


def _is_there(layer: str, model: Networks) -> bool:
    if layer.partition(".")[0] not in model.backbone.edited:
        return False
    try:
        model.layer(layer)
    except AttributeError:
        return False
    return True
