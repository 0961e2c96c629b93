"""Training of the judge: renders, their reconstructions, and pictures that show nothing known.

What an edited model draws instead of a concept is often a blob, a thing that is none of the world's. A
judge that never saw such pictures takes them for one thing or another, and counts them as successes
of an attack. So they are among its training pictures, as none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.core.rng import generator_for, initial_values
from bench.mini.render import render
from bench.mini.scenes import NONE, sample_scenes
from bench.mini.train.loop import Pace, fit
from bench.mini.world import HEADS
from bench.toolkit.judge_net import JudgeNet

__all__ = ["train_judge"]

_BATCH = 128
_POOL = 16_000
_JUNK = 3_000
_BENT = 4_000
_BEND = 9.0  # pixels; neighbouring points of the grid, 16 pixels apart, pass each other
_IGNORE = -100


def _junk(vae: Any, generator: torch.Generator, device: torch.device) -> Tensor:
    """Pictures of nothing: noise at several scales, flat washes, decoded random latents."""
    n = _JUNK // 5
    parts = []
    for cell in (1, 4, 16):
        side = 64 // cell
        field = torch.rand(n, 3, side, side, generator=generator)
        contrast = torch.rand(n, 1, 1, 1, generator=generator)
        tone = torch.rand(n, 3, 1, 1, generator=generator)
        field = tone * (1 - contrast) + field * contrast
        parts.append(
            F.interpolate(field, size=(64, 64), mode="bilinear" if cell > 1 else "nearest")
        )
    for smooth in (1, 2):
        side = 16 // smooth
        z = torch.randn(n, vae.config.latent_channels, side, side, generator=generator)
        z = z * (0.2 + 2.3 * torch.rand(n, 1, 1, 1, generator=generator))
        z = z + 1.5 * torch.randn(n, vae.config.latent_channels, 1, 1, generator=generator)
        z = F.interpolate(z, size=(16, 16), mode="bilinear" if smooth > 1 else "nearest")
        out = [vae.decode(c.to(device)).sample.cpu() for c in z.split(100)]
        parts.append((torch.cat(out) / 2 + 0.5).clamp(0, 1))
    return torch.cat(parts)


def _shuffle(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cuts each image into 16-pixel tiles and permutes them: texture stays, shapes and places go."""
    n = len(images)
    tiles = images.unfold(2, 16, 16).unfold(3, 16, 16).reshape(n, 3, 16, 16, 16)
    order = torch.rand(n, 16, generator=generator).argsort(1)
    tiles = tiles.gather(2, order[:, None, :, None, None].expand_as(tiles))
    return tiles.reshape(n, 3, 4, 4, 16, 16).permute(0, 1, 2, 4, 3, 5).reshape(n, 3, 64, 64)


def _bent(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pulls each image about, so much that no shape is left."""
    n = len(images)
    pull = _BEND / 32 * torch.randn(n, 2, 5, 5, generator=generator)  # of half the width
    field = F.interpolate(pull, size=(64, 64), mode="bicubic", align_corners=True)
    identity = torch.eye(2, 3).expand(n, 2, 3)
    grid = F.affine_grid(identity, [n, 3, 64, 64], align_corners=False)
    grid = grid + field.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@torch.no_grad()
def _round_trip(
    vae: Any, images: Tensor, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Decoded latents with up to 0.25 of noise in them, as a sampler leaves them."""
    out = []
    for chunk in images.split(100):
        z = vae.encode(chunk.to(device) * 2 - 1).latent_dist.mean
        sigma = 0.25 * torch.rand(len(chunk), 1, 1, 1, generator=generator) ** 2
        z = z + (sigma * torch.randn(z.shape, generator=generator)).to(device)
        out.append((vae.decode(z).sample / 2 + 0.5).clamp(0, 1).cpu())
    return torch.cat(out)


def train_judge(vae: Any, work: Path, *, seed: int, steps: int, device: torch.device) -> JudgeNet:
    """Trains on half renders, half reconstructions, with junk, shuffled and bent pictures among them.

    The label of junk is "none of these" in every head. A shuffled picture has no subject and no
    background, a bent one no subject, and the rest of them is not scored.
    """
    with initial_values(seed + 2):
        net = JudgeNet(dict(HEADS))
    net = net.to(device).to(memory_format=torch.channels_last)
    generator = generator_for(seed, "judge pool")
    pool = sample_scenes(_POOL, generator, held_out=None)
    images = render(pool)
    with torch.no_grad():
        decoded = _round_trip(vae, images, generator, device)
        junk = _junk(vae, generator, device)
    bent = _bent(images[:_BENT], generator)
    bent[::2] = _round_trip(vae, bent[::2], generator, device)
    labels = torch.stack([pool.labels[h] for h in HEADS], dim=1)
    none = torch.tensor([NONE[h] for h in HEADS])
    lost = torch.tensor(
        [NONE[h] if h in ("object", "character", "background") else _IGNORE for h in HEADS]
    )
    shapeless = torch.tensor([NONE[h] if h in ("object", "character") else _IGNORE for h in HEADS])
    odd = _BATCH // 12

    def loss_of(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(_POOL, (_BATCH,), generator=generator)
        x = torch.cat([images[rows[: _BATCH // 2]], decoded[rows[_BATCH // 2 :]]])
        y = labels[rows]
        x[:odd] = _shuffle(x[:odd], generator)
        y[:odd] = lost
        x[-odd:] = junk[torch.randint(len(junk), (odd,), generator=generator)]
        y[-odd:] = none
        x[odd : 3 * odd] = bent[torch.randint(len(bent), (2 * odd,), generator=generator)]
        y[odd : 3 * odd] = shapeless
        gain = 0.9 + 0.2 * torch.rand(_BATCH, 1, 1, 1, generator=generator)
        shift = torch.randint(-3, 4, (2,), generator=generator).tolist()
        x = (
            torch.roll((x * gain).clamp(0, 1), shift, dims=(2, 3))
            if step % 2
            else (x * gain).clamp(0, 1)
        )
        logits = net(x.to(device, memory_format=torch.channels_last))
        losses = [
            F.cross_entropy(logits[h], y[:, i].to(device), ignore_index=_IGNORE)
            for i, h in enumerate(HEADS)
        ]
        return torch.stack(losses).sum()

    pace = Pace(steps=steps, lr=1.5e-3, ema=0.99, weight_decay=0.02, muon=True)
    weights = fit(
        "judge",
        {"judge": net},
        loss_of,
        pace,
        seed=seed,
        checkpoint=work / "judge.ckpt.safetensors",
    )
    net.load_state_dict({n.removeprefix("judge."): w for n, w in weights.items()})
    return net.eval()
