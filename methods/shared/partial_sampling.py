"""Sampling that stops on the way: noisy latents, each with the timestep that belongs to it.

Shared by the erasures that train where sampling goes (ESD, STEREO). ESD's code of 2023 paired a
latent with a timestep drawn from around it. Here the two cannot differ, because one grid of
timesteps gives both. The solver is DDIM, as in that code; the later ones sample by the pipeline's
own scheduler, PNDM for SD-1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.core.lazy import torch
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PartialSampler", "Spacing"]

Spacing = Literal["leading", "trailing"]


@dataclass(frozen=True, slots=True)
class PartialSampler:
    """Deterministic DDIM (Song et al. 2021, arXiv 2010.02502) up to a step.

    Attributes:
        steps: S, of the whole trajectory.
        guidance_scale: Of the model's own guidance.
        spacing: Of the grid, with T timesteps and k = 0, 1, ..., S - 1. ``leading``: that of Stable
            Diffusion's schedulers and of the published code, (S - 1 - k) floor(T / S) + 1, so 981,
            961, ..., 1 for 50 of 1000. ``trailing``: that of :class:`bench.model.sampler.Sampler`, which
            starts at pure noise: 999, 979, ..., 19.
    """

    steps: int
    guidance_scale: float
    spacing: Spacing = "leading"

    def timesteps(self, model: TextToImage) -> Tensor:
        """The grid, int64 [S] on the CPU: what the model is told at steps 0, 1, ..., S - 1.

        Raises:
            ValueError: the schedule has fewer timesteps than S.
        """
        total = model.schedule.steps
        most = total if self.spacing == "trailing" else total - 1  # leading has an offset of 1
        if self.steps > most:
            raise ValueError(
                f"expected at most {most} sampling steps on the model's {total} timesteps, got {self.steps}"
            )
        if self.spacing == "leading":
            return torch.arange(self.steps - 1, -1, -1) * (total // self.steps) + 1
        left = 1 - torch.arange(self.steps, dtype=torch.float64) / self.steps
        return (left * total).round().long() - 1

    def run(
        self,
        model: TextToImage,
        contexts: Sequence[Conditioning],
        noise_BChw: Tensor,
        stops_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Takes ``stops_B`` steps, each row its own number.

        Args:
            model: Samples, with its guidance and its edits.
            contexts: From ``model.guidance.contexts``.
            noise_BChw: Standard normal, on the CPU.
            stops_B: int64 in [0, S), on the CPU.

        Returns:
            float32 latents x_t [B, C, h, w] and their t, int64 [B], both on the model's device. The
            t is what the model would be told next.
        """
        device, dtype = model.device, model.dtype
        grid = self.timesteps(model)
        times = grid.to(device)  # once: a copy at each step would wait for the device
        alphas = model.schedule.alphas(grid)
        signal, noise = alphas.sqrt().tolist(), (1 - alphas).sqrt().tolist()
        # Longest first, so that the rows still under way are always the leading ones.
        order = stops_B.argsort(descending=True, stable=True)
        back, there = order.argsort(), order.to(device)
        x = noise_BChw[order].float().to(device)
        contexts = [context[there] for context in contexts]
        memory: Tensor | None = None
        for k in range(int(stops_B.max())):
            rows = int((stops_B > k).sum())
            going = x[:rows]
            predicted, memory = model.guide(
                going.to(dtype),
                int(grid[k]),
                [context[:rows] for context in contexts],
                self.guidance_scale,
                k,
                memory if memory is None else memory[:rows],
            )
            eps = model.schedule.to_noise(predicted.float(), going, times[k].expand(rows))
            clean = (going - noise[k] * eps) / signal[k]
            x = torch.cat([signal[k + 1] * clean + noise[k + 1] * eps, x[rows:]])
        return x[back.to(device)], times[stops_B.to(device)]
