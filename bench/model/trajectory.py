"""The steps of a sampler from first noise to clean latents, or a part of them; gradients go through them.

A part begins with noisy latents as the model is shown them, ``sqrt(a) x + sqrt(1 - a) e``, whatever
a solver makes of them inside. A solver that remembers its last steps begins afresh there.
DPM-Solver++(2M) takes the first step of a part at first order, as it takes its very first.
"""

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
    scheduler: Any,
    predict: Predict,
    start_BChw: Tensor,
    seeds: Sequence[int],
    first: int = 0,
    last: int | None = None,
) -> Tensor:
    """Takes the steps of a sampler.

    With gradients, the values inside ``predict`` are made again in the backward pass. So the memory
    is that of one step and of the latents between them.

    Args:
        scheduler: Fresh, from :meth:`bench.model.sampler.Sampler.scheduler`.
        predict: Asks the model.
        start_BChw: Initial noise of standard deviation 1, on the model's device; where ``first`` is not 0,
            noisy latents at the time of that step.
        seeds: One per row: stochastic solvers draw further noise from it.
        first: Index of the first step to take; the number of all steps takes none.
        last: Index of the step to stop before; by default all are taken.

    Returns:
        float32 latents [B, C, h, w]: clean ones, or noisy ones at the time of step ``last``.

    Raises:
        ValueError: there are no such steps.
    """
    times = scheduler.timesteps
    last = len(times) if last is None else last
    if not 0 <= first <= last <= len(times):
        raise ValueError(
            f"expected steps from 0 to {len(times)}, in order, got {first} to {last}; "
            "these are the sampler's"
        )
    # Noise during sampling (stochastic solvers only) comes from the image's own stream, apart
    # from its first noise.
    generators = [torch.Generator().manual_seed(seed ^ 0x5DEECE66D) for seed in seeds]
    noise = _generator(scheduler, generators)
    latents = _entered(scheduler, start_BChw.float(), first)
    memory: Tensor | None = None
    for step in range(first, last):
        t = times[step]
        asked = (scheduler.scale_model_input(latents, t), t, step, memory)
        predicted, memory = _remade(predict, asked) if torch.is_grad_enabled() else predict(*asked)
        latents = scheduler.step(predicted.float(), t, latents, **noise)[0]
    if first < last < len(times):
        latents = scheduler.scale_model_input(latents, times[last])
    return latents


def _entered(scheduler: Any, start_BChw: Tensor, first: int) -> Tensor:
    """The latents as the solver holds them before a step."""
    if first == 0:
        return start_BChw * scheduler.init_noise_sigma
    if first == len(scheduler.timesteps):
        return start_BChw
    if hasattr(scheduler, "set_begin_index"):  # DDIM counts no steps: a time is all it needs
        scheduler.set_begin_index(first)
    shown = scheduler.scale_model_input(start_BChw.new_ones(()), scheduler.timesteps[first])
    return start_BChw / shown


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
