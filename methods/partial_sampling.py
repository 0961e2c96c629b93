"""Sampling that stops on the way: noisy latents, each with the timestep that belongs to it.

Shared by the erasures that train where sampling goes (ESD, STEREO). The published code paired a
latent with a timestep drawn from around it; here the two cannot differ, because one grid of
timesteps gives both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.lazy import torch
from bench.model import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PartialSampler"]


@dataclass(frozen=True, slots=True)
class PartialSampler:
    """Deterministic DDIM (Song et al. 2021, arXiv 2010.02502) up to a step.

    Attributes:
        steps: S, of the whole trajectory.
        guidance_scale: Of the model's own guidance.
    """

    steps: int
    guidance_scale: float

    def timesteps(self, model: TextToImage) -> Tensor:
        """The grid, int64 [S] on the CPU: what the model is told at steps 0, 1, ..., S - 1.

        Raises:
            ValueError: the schedule has fewer timesteps than S, or the model predicts no noise.
        """
        config = model.backbone.scheduler_config
        total = int(config["num_train_timesteps"])
        if self.steps > total:
            raise ValueError(
                f"expected at most {total} sampling steps, the model's timesteps; got {self.steps}"
            )
        predicts = config.get("prediction_type", "epsilon")
        if predicts != "epsilon":
            raise ValueError(
                f"expected a model that predicts noise (epsilon), got {predicts!r}; this method's "
                "equations are written for noise predictions"
            )
        left = 1 - torch.arange(self.steps, dtype=torch.float64) / self.steps
        return (left * total).round().long() - 1

    def run(
        self, model: TextToImage, contexts_KBLD: Tensor, noise_BChw: Tensor, stops_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Takes ``stops_B`` steps, each row its own number.

        Args:
            model: Samples, with its guidance and its edits.
            contexts_KBLD: From ``model.guidance.contexts``.
            noise_BChw: Standard normal, on the CPU.
            stops_B: int64 in [0, S), on the CPU.

        Returns:
            float32 latents x_t [B, C, h, w] and their t, int64 [B], both on the model's device: t is
            what the model would be told next.
        """
        from diffusers import DDPMScheduler

        device, dtype = model.backbone.device, model.backbone.dtype
        grid = self.timesteps(model)
        alphas = DDPMScheduler.from_config(model.backbone.scheduler_config).alphas_cumprod[grid]
        signal, noise = alphas.sqrt().tolist(), (1 - alphas).sqrt().tolist()
        # Longest first, so that the rows still under way are always the leading ones.
        order = stops_B.argsort(descending=True, stable=True)
        back, there = order.argsort(), order.to(device)
        x, contexts = noise_BChw[order].float().to(device), contexts_KBLD[:, there]
        memory: Tensor | None = None
        for k in range(int(stops_B.max())):
            rows = int((stops_B > k).sum())
            going = x[:rows]
            eps, memory = model.guide(
                going.to(dtype),
                int(grid[k]),
                contexts[:, :rows],
                self.guidance_scale,
                k,
                memory if memory is None else memory[:rows],
            )
            eps = eps.float()
            clean = (going - noise[k] * eps) / signal[k]
            x = torch.cat([signal[k + 1] * clean + noise[k + 1] * eps, x[rows:]])
        return x[back.to(device)], grid[stops_B].to(device)
