"""Training of the miniature's denoiser, conditioned on the frozen text tower."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from bench.core.rng import generator_for, initial_values
from bench.mini.captions import captions
from bench.mini.render import render
from bench.mini.scenes import Scenes, sample_scenes
from bench.mini.train.loop import Schedule, fit

__all__ = ["SCHEDULER", "train_unet"]

log = logging.getLogger(__name__)

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "steps_offset": 1,
}
"""The noise schedule of Stable Diffusion 1.x."""

MUON = True
_POOL = 48_000
_BATCH = 64
_NO_CAPTION = 0.1
_SNR_GAMMA = 5.0


def new_unet(text_width: int) -> Any:
    """An untrained UNet with Stable Diffusion's block classes on 16x16 latents."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 96, 160),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=(2, 4, 5),
        norm_num_groups=16,
    )


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

    Drawing a timestep less often rather than weighing its loss down spends no compute on it.
    """
    a = scheduler.alphas_cumprod
    snr = a / (1 - a)
    return (snr.clamp(max=_SNR_GAMMA) / snr).clamp(min=0.12)


def train_unet(
    tokenizer: Any,
    text_encoder: Any,
    vae: Any,
    work: Path,
    *,
    seed: int,
    steps: int,
    device: torch.device,
) -> Any:
    """Epsilon prediction on latents of training combinations, captions drawn anew at every step."""
    with initial_values(seed + 3):
        unet = new_unet(text_encoder.config.hidden_size)
    unet = unet.to(device)
    scheduler = DDPMScheduler(**SCHEDULER)
    pool = sample_scenes(_POOL, generator_for(seed, "unet pool"), held_out=False)
    latents = _latents(vae, pool, device)
    odds = _timestep_odds(scheduler)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(_POOL, (_BATCH,), generator=generator)
        said = captions(pool[rows], generator)
        blank = torch.rand(_BATCH, generator=generator) < _NO_CAPTION
        said = ["" if b else s for s, b in zip(said, blank.tolist(), strict=True)]
        ids = tokenizer(said, padding="max_length", truncation=True, return_tensors="pt")[
            "input_ids"
        ]
        noise = torch.randn(_BATCH, *latents.shape[1:], generator=generator)
        t = torch.multinomial(odds, _BATCH, replacement=True, generator=generator)
        noisy = scheduler.add_noise(latents[rows], noise, t)
        with torch.no_grad():
            states = text_encoder(ids.to(device))[0]
        out = unet(noisy.to(device), t.to(device), states).sample
        return (out - noise.to(device)).square().mean()

    schedule = Schedule(
        steps=steps, lr=1.2e-3, warmup=300, decay=0.4, weight_decay=0.01, ema=0.999, muon=MUON
    )
    weights = fit(
        "unet",
        {"unet": unet},
        loss_of,
        schedule,
        seed=seed,
        checkpoint=work / "unet.ckpt.safetensors",
    )
    unet.load_state_dict({n.removeprefix("unet."): w for n, w in weights.items()})
    return unet.eval()
