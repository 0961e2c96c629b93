"""The miniature's autoencoder: factor 4, four channels, latents whitened a channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from bench.core.rng import generator_for, initial_values
from bench.mini.render import render
from bench.mini.scenes import sample_scenes
from bench.mini.train.loop import Pace, fit

__all__ = ["train_vae"]

MUON = True
_BATCH = 16
_KL = 1e-7


def new_vae() -> Any:
    """An untrained autoencoder, 64x64x3 -> 16x16x4."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def _slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def train_vae(work: Path, *, seed: int, steps: int, device: torch.device) -> Any:
    """Trains on fresh renders.

    The loss is L1 on pixels and on their differences, and squared error on 4x4 block means (L1 alone first
    settles on grey). A tiny KL term is added (1e-5 was tried: a channel died, and the colours with it).

    Afterwards the latents are whitened by a change of basis inside the two 1x1 convolutions around
    them. So each channel has mean 0 and variance 1, and the scaling factor is 1. A diffusion model
    trains faster on such latents, and no pipeline needs to know.
    """
    with initial_values(seed):
        vae = new_vae()
    vae = vae.to(device, memory_format=torch.channels_last)

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        scenes = sample_scenes(_BATCH, generator, held_out=False)
        images = (render(scenes) * 2 - 1).to(device, memory_format=torch.channels_last)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        out = vae.decode(posterior.mean + posterior.std * noise).sample
        pixel = (out - images).abs().mean()
        slope = sum(F.l1_loss(a, b) for a, b in zip(_slopes(out), _slopes(images), strict=True))
        colour = F.mse_loss(F.avg_pool2d(out, 4), F.avg_pool2d(images, 4))
        return pixel + 0.5 * slope + 4 * colour + _KL * posterior.kl().mean()

    pace = Pace(steps=steps, lr=2e-3, ema=0.995, weight_decay=0.0, decay=0.7, muon=MUON)
    weights = fit(
        "vae", {"vae": vae}, loss_of, pace, seed=seed, checkpoint=work / "vae.ckpt.safetensors"
    )
    vae.load_state_dict({n.removeprefix("vae."): w for n, w in weights.items()})
    vae.eval()
    _whiten(vae, seed=seed, device=device)
    return vae


@torch.no_grad()
def _whiten(vae: Any, *, seed: int, device: torch.device) -> None:
    images = render(sample_scenes(2000, generator_for(seed, "whiten"))).to(device)
    means = torch.cat([vae.encode(chunk * 2 - 1).latent_dist.mean for chunk in images.split(100)])
    channels = means.shape[1]
    mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    # encoder: z' = (z - mean) / std; the log-variance shifts by -2 log std
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    # decoder: the first convolution undoes it
    post.bias += (post.weight * mean[None, :, None, None]).sum((1, 2, 3))
    post.weight *= std[None, :, None, None]
