"""The steps of a sampler from first noise to clean latents; gradients go through all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Predict", "run_through"]

Predict: TypeAlias = "Callable[[Tensor, Tensor, int, Tensor | None], tuple[Tensor, Tensor | None]]"
"""Of scaled latents, a timestep, the index of the step and a memory: what the model predicts, and the next memory."""


def run_through(
    scheduler: Any, predict: Predict, start_BChw: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Takes every step of a sampler.

    With gradients, the values inside ``predict`` are made again in the backward pass, so the memory is that of
    one step and of the latents between them.

    Args:
        scheduler: Fresh, from :meth:`bench.model.sampler.Sampler.scheduler`.
        predict: Asks the model.
        start_BChw: Initial noise of standard deviation 1, on the model's device.
        seeds: One per row: stochastic solvers draw further noise from it.

    Returns:
        float32 latents [B, C, h, w].
    """
    # Noise during sampling (stochastic solvers only) comes from the image's own stream, apart
    # from its first noise.
    generators = [torch.Generator().manual_seed(seed ^ 0x5DEECE66D) for seed in seeds]
    noise = _generator(scheduler, generators)
    latents = start_BChw.float() * scheduler.init_noise_sigma
    memory: Tensor | None = None
    for step, t in enumerate(scheduler.timesteps):
        asked = (scheduler.scale_model_input(latents, t), t, step, memory)
        predicted, memory = _remade(predict, asked) if torch.is_grad_enabled() else predict(*asked)
        latents = scheduler.step(predicted.float(), t, latents, **noise)[0]
    return latents


def _remade(predict: Predict, asked: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
    """The prediction, with its inner values made again for the backward pass; nothing in it draws."""
    from torch.utils.checkpoint import checkpoint

    out: tuple[Tensor, Tensor | None] = checkpoint(
        predict, *asked, use_reentrant=False, preserve_rng_state=False
    )
    return out


def _generator(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    takes = inspect.signature(scheduler.step).parameters
    return {"generator": generators} if "generator" in takes else {}
