"""One resumable optimisation loop for all of the miniature's networks.

Every step draws its randomness from a generator seeded by (seed, stage, step). A checkpoint
holds the weights, the moving average and the optimiser's moments. So a run that was killed and
resumed takes the same steps as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.core.rng import generator_for
from bench.mini.train.muon import Muon

__all__ = ["Pace", "fit"]

log = logging.getLogger(__name__)

_CHECKPOINT_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how fast.

    Attributes:
        steps: Optimiser steps.
        lr: Peak learning rate: linear warm-up, constant, then cosine to zero.
        warmup: Steps of warm-up.
        decay: Share of the steps, at the end, in which the rate falls.
        muon: Matrices and kernels are updated by Muon (Jordan et al. 2024) at AdamW's update size;
            the rest by AdamW.
        weight_decay: AdamW's, on matrices and kernels only.
        ema: Decay of the moving average of the weights; 0 keeps none. Ramped up as (1+k)/(10+k).
        clip: Largest gradient norm.
        betas: AdamW's.
    """

    steps: int
    lr: float
    warmup: int = 100
    decay: float = 1.0
    muon: bool = False
    weight_decay: float = 0.01
    ema: float = 0.0
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)

    def rate(self, step: int) -> float:
        """Learning rate at ``step``."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        falling = max(1.0, self.decay * (self.steps - self.warmup))
        done = max(0.0, (step - (self.steps - falling)) / falling)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _save(path: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    part = path.with_suffix(".part")
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, part, metadata={"step": json.dumps(step)}
    )
    part.replace(path)


def fit(
    stage: str,
    modules: Mapping[str, nn.Module],
    loss_of: Callable[[int, torch.Generator], Tensor],
    pace: Pace,
    *,
    seed: int,
    checkpoint: Path,
    report_every: int = 20,
) -> dict[str, Tensor]:
    """Trains until the steps are done; resumes from ``checkpoint`` if it is there.

    Args:
        stage: Name in log lines and in the random streams.
        modules: What is trained, by prefix.
        loss_of: (step, CPU generator of this step) -> scalar loss.
        pace: See :class:`Pace`.
        seed: Of the whole training.
        checkpoint: Safetensors file, written about once a minute and at the end.
        report_every: Steps between log lines.

    Returns:
        The averaged weights (the plain ones where ``pace.ema`` is 0), by ``prefix.name``, on
        the CPU. The modules hold the plain weights.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    named = {
        f"{p}.{n}": w
        for p, m in modules.items()
        for n, w in m.named_parameters()
        if w.requires_grad
    }
    optimisers = _optimisers(named, pace)
    average = {n: w.detach().clone() for n, w in named.items()} if pace.ema else {}
    start = _resume(checkpoint, named, average, optimisers) if checkpoint.exists() else 0
    began = saved = time.monotonic()
    recent: list[float] = []
    for step in range(start, pace.steps):
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = pace.rate(step)
        loss = loss_of(step, generator_for(seed, stage, step))
        for weight in named.values():
            weight.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(named.values(), pace.clip)
        for optimiser in optimisers:
            optimiser.step()
        if average:
            decay = min(pace.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.values()), list(named.values()), 1 - decay)
        recent.append(loss.item())
        if not math.isfinite(recent[-1]):
            raise FloatingPointError(
                f"{stage}: the loss is {recent[-1]} at step {step}; lower the learning rate"
            )
        done = step + 1
        if done % report_every == 0 or done == pace.steps:
            rate = (done - start) / (time.monotonic() - began)
            left = (pace.steps - done) / rate
            mean = sum(recent) / len(recent)
            log.info(
                "%s %d/%d loss %.4f  %.2f steps/s  %.0f s left",
                stage,
                done,
                pace.steps,
                mean,
                rate,
                left,
            )
            recent.clear()
        if time.monotonic() - saved > _CHECKPOINT_EVERY_S or done == pace.steps:
            _save(checkpoint, done, _state(named, average, optimisers))
            saved = time.monotonic()
    return {n: w.detach().cpu().clone() for n, w in (average or named).items()}


def _optimisers(named: Mapping[str, nn.Parameter], pace: Pace) -> list[torch.optim.Optimizer]:
    tables = [w for n, w in named.items() if w.ndim > 1 and n.endswith("_embedding.weight")]
    matrices = [w for n, w in named.items() if w.ndim > 1 and not n.endswith("_embedding.weight")]
    vectors = [w for w in named.values() if w.ndim <= 1]
    made: list[torch.optim.Optimizer] = []
    if pace.muon:  # made for matrices that map activations; tables of embeddings stay with AdamW
        made.append(Muon(matrices, lr=pace.lr, weight_decay=pace.weight_decay))
        matrices = tables
    else:
        matrices = matrices + tables
    groups = [
        {"params": matrices, "weight_decay": pace.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    made.append(
        torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=pace.lr, betas=pace.betas, fused=True
        )
    )
    return made


def _state(
    named: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimisers: Sequence[torch.optim.Optimizer],
) -> dict[str, Tensor]:
    state = {f"weight/{n}": w.detach() for n, w in named.items()}
    state |= {f"average/{n}": w for n, w in average.items()}
    for k, optimiser in enumerate(optimisers):
        params = [w for group in optimiser.param_groups for w in group["params"]]
        for i, weight in enumerate(params):
            state |= {f"optimiser/{k}/{i}/{key}": v for key, v in optimiser.state[weight].items()}
    return state


def _resume(
    path: Path,
    named: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimisers: Sequence[torch.optim.Optimizer],
) -> int:
    with safe_open(path, framework="pt") as file, torch.no_grad():
        step = int(json.loads((file.metadata() or {}).get("step", "0")))
        keys = list(file.keys())
        for name, weight in named.items():
            weight.copy_(file.get_tensor(f"weight/{name}"))
            if average:
                average[name].copy_(file.get_tensor(f"average/{name}"))
        for k, optimiser in enumerate(optimisers):
            params = [w for group in optimiser.param_groups for w in group["params"]]
            for key in (key for key in keys if key.startswith(f"optimiser/{k}/")):
                _, _, i, field = key.split("/")
                value = file.get_tensor(key)
                weight = params[int(i)]
                if (
                    field != "step"
                ):  # in the weight's memory order: the kernel reads them as they lie
                    value = torch.empty_like(weight).copy_(value)
                optimiser.state[weight][field] = value
    log.info("resumed %s at step %d", path.name, step)
    return step
