"""Training of a miniature's denoiser, conditioned on its frozen text encoders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from bench.core.rng import generator_for, initial_values
from bench.mini.captions import captions
from bench.mini.render import render
from bench.mini.scenes import Scenes, sample_scenes
from bench.mini.train.loop import Pace, fit
from bench.mini.train.miniatures import Miniature
from bench.mini.train.reader import Reader

__all__ = ["train_unet"]

log = logging.getLogger(__name__)

MUON = True
_POOL = 48_000
_BATCH = 64
_NO_CAPTION = 0.1
_SNR_GAMMA = 5.0


@torch.no_grad()
def _latents(vae: Any, pool: Scenes, device: torch.device) -> Tensor:
    chunks = []
    for i in range(0, len(pool), 256):
        images = render(pool[i : i + 256]).to(device)
        chunks.append(vae.encode(images * 2 - 1).latent_dist.mean.cpu())
        if i % 12_800 == 0:
            log.info("unet: encoded %d of %d pictures", i, len(pool))
    return torch.cat(chunks)


def _timestep_odds(scheduler: Any) -> Tensor:
    """How often each timestep is drawn: Min-SNR weights (Hang et al. 2023, gamma 5) used as sampling odds.

    Drawing a timestep less often rather than weighing its loss down spends no compute on it. A loss on v
    weighs noise by snr + 1 where a loss on noise weighs it by snr.
    """
    a = scheduler.alphas_cumprod
    snr = a / (1 - a)
    own = snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr
    return (snr.clamp(max=_SNR_GAMMA) / own).clamp(min=0.12)


def train_unet(
    made: Miniature,
    reader: Reader,
    vae: Any,
    work: Path,
    *,
    seed: int,
    steps: int,
    device: torch.device,
) -> Any:
    """Trains on latents of training combinations, to predict noise or v, captions drawn anew at every step."""
    with initial_values(seed + 3):
        unet = made.new_unet(reader.width, reader.pooled)
    unet = unet.to(device)
    scheduler = DDPMScheduler.from_config(dict(made.scheduler[1]))
    predicts_v = scheduler.config.prediction_type == "v_prediction"
    pool = sample_scenes(_POOL, generator_for(seed, "unet pool"), held_out=False)
    latents = _latents(vae, pool, device)
    odds = _timestep_odds(scheduler)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(_POOL, (_BATCH,), generator=generator)
        said = captions(pool[rows], generator)
        blank = torch.rand(_BATCH, generator=generator) < _NO_CAPTION
        said = ["" if b else s for s, b in zip(said, blank.tolist(), strict=True)]
        noise = torch.randn(_BATCH, *latents.shape[1:], generator=generator)
        t = torch.multinomial(odds, _BATCH, replacement=True, generator=generator)
        noisy = scheduler.add_noise(latents[rows], noise, t)
        wanted = scheduler.get_velocity(latents[rows], noise, t) if predicts_v else noise
        out = unet(noisy.to(device), t.to(device), **reader(said, device)).sample
        return (out - wanted.to(device)).square().mean()

    pace = Pace(
        steps=steps, lr=1.2e-3, warmup=300, decay=0.4, weight_decay=0.01, ema=0.999, muon=MUON
    )
    weights = fit(
        "unet",
        {"unet": unet},
        loss_of,
        pace,
        seed=seed,
        checkpoint=work / "unet.ckpt.safetensors",
    )
    unet.load_state_dict({n.removeprefix("unet."): w for n, w in weights.items()})
    return unet.eval()
