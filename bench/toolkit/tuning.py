"""Gradient training of some of a model's parameters, or of a hook: what every erasure by fine-tuning shares.

The networks are never written to. The trained values are leaves laid over them. So the unedited
model is at hand as a teacher, in the same memory and without a second copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from bench.core.clock import model_time
from bench.core.lazy import torch
from bench.interfaces import Progress, silent
from bench.model.hooks import Fitted, Hook
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Optimiser",
    "mixed",
    "require_finite",
    "timesteps",
    "tune",
    "tune_hook",
    "tune_tensors",
]


@dataclass(frozen=True, slots=True)
class Optimiser:
    """How the parameters are moved.

    Attributes:
        steps: Optimiser steps.
        lr: Learning rate, constant but for ``schedule``.
        rule: How a gradient becomes a step: ``adamw``, ``adam`` or ``sgd`` (no momentum).
        weight_decay: Apart from the gradient with ``adamw``; a part of it, L2, with the others.
        betas: Adam's.
        eps: Adam's, added to the root of the second moment.
        clip: Largest gradient norm over all parameters; 0 does not clip.
        ema: Returns the moving average, with decay (1+k)/(10+k) after step k = 0, 1, ..., rather than
            the last values. The decays of diffusers are the same but for the first, 0 in place of 0.1.
            After ten steps the starting values weigh 1e-5 more in ours.
        checkpointing: Recomputes the UNet's blocks in the backward pass: less memory, more time.
        schedule: The factor of the learning rate at steps 0, 1, ...; ``None``: 1.
    """

    steps: int
    lr: float
    rule: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 0.0
    ema: bool = False
    checkpointing: bool = False
    schedule: Callable[[int], float] | None = None

    def over(self, leaves: Sequence[Tensor]) -> torch.optim.Optimizer:
        """A fresh optimiser over ``leaves``."""
        if self.rule == "sgd":
            return torch.optim.SGD(leaves, lr=self.lr, weight_decay=self.weight_decay)
        adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.rule]
        return adam(
            leaves, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )


def tune(
    model: TextToImage,
    names: Sequence[str],
    loss_of: Callable[[TextToImage, int], Tensor],
    optimiser: Optimiser,
    *,
    masks: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
    what: str = "training",
) -> dict[str, Tensor]:
    """Minimises a loss over parameters of a model.

    Args:
        model: Where training starts; not changed.
        names: ``component.name`` of the parameters.
        loss_of: (the model with the values of this step, index of the step) -> scalar loss.
        optimiser: How.
        masks: By name, of a parameter's shape: gradients are multiplied by them before anything else.
            Where they are 0 the value stays, to the bit.
        progress: Told after each step.
        what: Said to ``progress``.

    Returns:
        float32 values by name. On a GPU, half-precision bases are trained in float32 under
        automatic mixed precision.

    Raises:
        ValueError: no such parameter, or none; or a weight decay beside masks, which it would pass by.
        FloatingPointError: the loss is not finite: the training diverged.
    """
    leaves = _leaves({n: model.parameter(n) for n in names}, what)
    if masks and optimiser.weight_decay:
        raise ValueError(
            f"{what}: expected no weight decay beside masks, got {optimiser.weight_decay}"
        )
    for name, mask in (masks or {}).items():
        leaves[name].register_hook(mask.mul)
    live = replace(model, weights={**model.weights, **leaves})
    with _checkpointing(live) if optimiser.checkpointing else nullcontext():
        return _descend(live, leaves, loss_of, optimiser, progress, what)


def tune_hook(
    model: TextToImage,
    hook: Hook,
    tensors: Mapping[str, Tensor],
    names: Sequence[str],
    loss_of: Callable[[TextToImage, int], Tensor],
    optimiser: Optimiser,
    *,
    progress: Progress = silent,
    what: str = "training",
) -> dict[str, Tensor]:
    """Minimises a loss over tensors of a hook, which is fitted to a model for that.

    Args:
        model: What the hook is fitted to; not changed.
        hook: The rule.
        tensors: Where training starts.
        names: Those that are trained.
        loss_of: (the model with the hook as it is at this step, index of the step) -> scalar loss.
        optimiser: How. ``checkpointing`` has no effect: a network with hooks is never checkpointed.
        progress: Told after each step.
        what: Said to ``progress``.

    Returns:
        All tensors of the hook; the trained ones in float32.

    Raises:
        ValueError: no such tensor, or none, or the hook does not fit the model.
        FloatingPointError: the loss is not finite: the training diverged.
    """
    if unknown := sorted(set(names) - tensors.keys()):
        raise ValueError(f"{what}: hook {hook.name} has no tensor {unknown[0]!r}")
    fitted = model.with_hook(hook, tensors).hooks[-1]
    leaves = _leaves({n: tensors[n].to(model.device) for n in names}, what)
    whole = {**fitted.tensors, **leaves}
    live = replace(model, hooks=(*model.hooks, Fitted(hook, whole)))
    return {**fitted.tensors, **_descend(live, leaves, loss_of, optimiser, progress, what)}


def tune_tensors(
    model: TextToImage,
    tensors: Mapping[str, Tensor],
    loss_of: Callable[[Mapping[str, Tensor], int], Tensor],
    optimiser: Optimiser,
    *,
    progress: Progress = silent,
    what: str = "training",
) -> dict[str, Tensor]:
    """Minimises a loss over tensors that are no parameters themselves, such as the factors of an adapter.

    Args:
        model: What the loss asks; not changed.
        tensors: Where training starts, by any name.
        loss_of: (the tensors as they are at this step, index of the step) -> scalar loss.
        optimiser: How. ``checkpointing`` has no effect.
        progress: Told after each step.
        what: Said to ``progress``.

    Returns:
        float32 tensors by name.

    Raises:
        ValueError: there are none.
        FloatingPointError: the loss is not finite: the training diverged.
    """
    leaves = _leaves(tensors, what)
    return _descend(model, leaves, lambda _, step: loss_of(leaves, step), optimiser, progress, what)


def _leaves(values: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    if not values:
        raise ValueError(f"{what}: expected at least one parameter to train")
    return {n: value.detach().float().clone().requires_grad_() for n, value in values.items()}


def _descend(
    live: TextToImage,
    leaves: Mapping[str, Tensor],
    loss_of: Callable[[TextToImage, int], Tensor],
    optimiser: Optimiser,
    progress: Progress,
    what: str,
) -> dict[str, Tensor]:
    """The values of the leaves at the end, or their averages."""
    averages = {n: w.detach().clone() for n, w in leaves.items()} if optimiser.ema else {}
    engine = optimiser.over(list(leaves.values()))
    for step in range(optimiser.steps):
        with model_time(), mixed(live):
            loss = loss_of(live, step)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"{what}: the loss is {loss.item()} at step {step}; lower the learning rate ({optimiser.lr:g})"
            )
        if optimiser.schedule is not None:
            for group in engine.param_groups:
                group["lr"] = optimiser.lr * optimiser.schedule(step)
        with model_time():
            engine.zero_grad(set_to_none=True)
            loss.backward()
            if optimiser.clip:
                torch.nn.utils.clip_grad_norm_(leaves.values(), optimiser.clip)
            engine.step()
            if averages:
                decay = (1 + step) / (10 + step)
                with torch.no_grad():
                    torch._foreach_lerp_(list(averages.values()), list(leaves.values()), 1 - decay)
        live.meter.spend(gradient_steps=1)
        progress(step + 1, optimiser.steps, what)
    return {n: w.detach() for n, w in (averages or leaves).items()}


def require_finite(values: Iterable[Tensor | None], what: str) -> None:
    """Refuses what a search rests on outside of :func:`tune`, such as gradients, if any is not finite.

    Args:
        values: ``None`` counts for nothing: a leaf that no row reached.
        what: Names them, for the error.

    Raises:
        FloatingPointError: one holds a number that is not finite.
    """
    if not all(bool(value.isfinite().all()) for value in values if value is not None):
        raise FloatingPointError(
            f"{what} is not finite: numbers overflow, or a search went too far; take a base in float32, "
            "or a smaller learning rate"
        )


def timesteps(model: TextToImage, n: int, generator: torch.Generator) -> Tensor:
    """``n`` timesteps drawn uniformly from the model's schedule; int64 on the model's device."""
    return torch.randint(model.schedule.steps, (n,), generator=generator).to(model.device)


def mixed(model: TextToImage) -> Any:
    """Automatic mixed precision for a half-precision base, without a cache.

    The cache keeps the half-precision copy that a value got first. That may be without gradients,
    as in a teacher's pass or on the way to x_t. Some versions of torch then keep a copy that knows of
    none. The same value in the student's pass would not be trained, silently.
    """
    half = model.dtype in (torch.float16, torch.bfloat16)
    if not half:
        return nullcontext()
    return torch.autocast(model.device.type, dtype=model.dtype, cache_enabled=False)


@contextmanager
def _checkpointing(live: TextToImage) -> Iterator[None]:
    """Gradient checkpointing in the UNet, correct for laid-over parameters.

    A checkpointed block runs again during the backward pass, when the values laid over the networks
    for the call are gone. It would read the unedited ones, silently. So the values are put in place
    for the whole of training, and taken out again whatever happens.
    """
    denoiser = live.backbone.denoiser
    unet: Any = live.backbone.network(denoiser)
    places = []
    for name, value in live.weights.items():
        part, _, rest = name.partition(".")
        if part != denoiser:
            continue
        path, _, key = rest.rpartition(".")
        owner = unet.get_submodule(path)
        places.append((owner._parameters, key, owner._parameters[key]))
        owner._parameters[key] = value
    was_training = unet.training
    unet.enable_gradient_checkpointing()
    unet.train()  # diffusers checkpoints only then; these UNets have no dropout
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()
        unet.train(was_training)
        for parameters, key, value in places:
            parameters[key] = value
