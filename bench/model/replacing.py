"""New values of parameters, held against the model that they are for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from bench.core.lazy import torch
from bench.model.networks import Networks

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["replacing", "rounded_away"]

log = logging.getLogger(__name__)

_MUCH: Final = 0.1


def replacing(values: Mapping[str, Tensor], model: Networks) -> tuple[dict[str, Tensor], float]:
    """Copies of values, on the device and in the precision of the model; and what that rounded away.

    Returns:
        The copies, and the share of changed numbers that are as before after rounding; 0 where the
        model is as precise as the values.

    Raises:
        ValueError: an unknown name, a wrong shape, or a value that is not finite.
    """
    known, held = model.backbone.parameters, {}
    counts = torch.zeros(2, dtype=torch.long)
    for name, value in values.items():
        if name not in known:
            raise ValueError(
                f"no parameter {name!r} in the base model; expected component.name, e.g. unet.conv_in.weight"
            )
        if value.shape != known[name].shape:
            raise ValueError(
                f"{name}: expected shape {tuple(known[name].shape)}, got {tuple(value.shape)}"
            )
        # A copy: the edit does not follow the caller's tensor. What overflows the base's
        # precision is not finite.
        held[name] = value.detach().to(known[name], copy=True)
        if not bool(torch.isfinite(held[name]).all()):
            raise ValueError(
                f"{name}: the edited values are not finite; the edit diverged (lower its strength)"
            )
        counts += rounded_away(model.parameter(name), value.detach(), held[name])
    lost, changed = counts.tolist()
    share = lost / max(1, changed)
    if share > _MUCH:
        log.warning(
            "%.0f %% of what an edit changed is rounded away in the base's precision; dtype: float32 keeps it",
            100 * share,
        )
    return held, share


def rounded_away(was: Tensor, wanted: Tensor, held: Tensor) -> Tensor:
    """int64 [2] on the CPU: how many numbers stayed as they were by rounding, of how many that were to change."""
    if wanted.dtype.itemsize <= held.dtype.itemsize:
        return torch.zeros(2, dtype=torch.long)
    changed = wanted.to(held.device) != was
    return torch.stack([(changed & (held == was)).sum(), changed.sum()]).cpu()
