"""The places that Ray has for workers: where fewer are free than were asked for, the rest would wait in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bench.core.errors import UsageError

__all__ = ["refuse_too_many", "seats"]

_ROUNDING: Final = 0.01
"""Ray counts in ten thousandths, so three thirds of a GPU are a little less than one."""


def seats(resources: Mapping[str, float], *, per_gpu: int, gpus: bool) -> int:
    """Returns how many workers find a place.

    Args:
        resources: What there is, as Ray tells it.
        per_gpu: Workers on each GPU.
        gpus: They compute on GPUs; else each takes a processor core.
    """
    if gpus:
        return int(resources.get("GPU", 0.0) * per_gpu + _ROUNDING)
    return int(resources.get("CPU", 0.0))


def refuse_too_many(
    workers: int, resources: Mapping[str, float], *, per_gpu: int, gpus: bool
) -> None:
    """Refuses workers that a Ray of this machine can never seat.

    Raises:
        UsageError: there are more than places.
    """
    room = seats(resources, per_gpu=per_gpu, gpus=gpus)
    if workers <= room:
        return
    if gpus:
        there = f"{per_gpu} on each of {resources.get('GPU', 0.0):g} GPUs"
        hint = "put more on each by --per-gpu, or leave the GPUs aside by --device cpu"
    else:
        there, hint = "one on each core that this Ray has", "ask for fewer"
    raise UsageError(f"--workers: expected at most {room}, {there}, got {workers}; {hint}")
