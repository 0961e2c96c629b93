"""Draws scenes: flat shapes on a background, then one of five whole-image styles. Deterministic, batched, no files."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.mini.scenes import Scenes
from bench.mini.shapes import CHARACTER_LAYERS, OBJECT_DISTANCES
from bench.mini.world import COLOURS, HEADS

__all__ = ["SIZE", "render"]

SIZE = 64
_CHUNK = 256  # images drawn at once: keeps the working set in cache


def _grid() -> tuple[Tensor, Tensor]:
    axis = torch.arange(SIZE, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def _waves(scenes: Scenes, period: float) -> Tensor:
    """A smooth random field [N, H, W] of about unit variance, fixed by the scene; ``period`` in pixels."""
    x, y = _grid()
    w = scenes.waves
    angle = 2 * math.pi * w[..., 0]
    frequency = 2 * math.pi / period * (0.6 + 0.8 * w[..., 1])
    phase = 2 * math.pi * w[..., 2]
    fx = (frequency * angle.cos())[..., None, None]
    fy = (frequency * angle.sin())[..., None, None]
    field = torch.sin(fx * x + fy * y + phase[..., None, None])
    return field.mean(1) * math.sqrt(2 * w.shape[1])


def _backgrounds(scenes: Scenes) -> Tensor:
    """[N, 3, H, W] in light tones, so that every subject stands out."""
    x, y = _grid()

    def mix(mask: Tensor, a: tuple[float, ...], b: tuple[float, ...]) -> Tensor:
        ca, cb = torch.tensor(a)[:, None, None], torch.tensor(b)[:, None, None]
        return ca * (1 - mask) + cb * mask

    down = y / SIZE
    stack = {
        "blank": mix(torch.zeros_like(x), (0.96, 0.95, 0.91), (1, 1, 1)),
        "striped": mix(((y // 8) % 2).float(), (0.97, 0.97, 1.0), (0.74, 0.72, 0.86)),
        "checkered": mix(
            (((x // 16) + (y // 16)) % 2).float(), (0.98, 0.98, 0.98), (0.72, 0.80, 0.78)
        ),
        "sunset": mix(down, (0.80, 0.70, 0.92), (1.0, 0.80, 0.62)),
        "meadow": mix((y > 42).float(), (0.78, 0.90, 1.0), (0.68, 0.88, 0.56)),
    }
    return torch.stack([stack[name] for name in HEADS["background"]])[scenes.labels["background"]]


def _paint(canvas: Tensor, distance_px: Tensor, colour: Tensor) -> Tensor:
    """Fills inside the shape with ``colour`` [.., 3] and draws a darker outline; one pixel of antialiasing."""
    fill = (0.5 - distance_px).clamp(0, 1)[:, None]
    rim = ((0.5 - distance_px).clamp(0, 1) * (distance_px + 2.2).clamp(0, 1))[:, None]
    ink = colour[..., None, None]
    canvas = canvas * (1 - fill) + ink * fill
    return canvas * (1 - 0.45 * rim)


def _subjects(scenes: Scenes, canvas: Tensor) -> Tensor:
    x, y = _grid()
    scale = scenes.scale[:, None, None]
    u = (x - scenes.centre[:, 0, None, None]) / scale
    v = (y - scenes.centre[:, 1, None, None]) / scale
    palette = torch.tensor(list(COLOURS.values()))
    canvas = canvas.clone()
    for k, name in enumerate(HEADS["object"]):
        rows = (scenes.labels["object"] == k).nonzero()[:, 0]
        if len(rows):
            distance = OBJECT_DISTANCES[name](u[rows], v[rows]) * scale[rows]
            canvas[rows] = _paint(canvas[rows], distance, palette[scenes.labels["colour"][rows]])
    for k, name in enumerate(HEADS["character"]):
        rows = (scenes.labels["character"] == k).nonzero()[:, 0]
        for layer, rgb in CHARACTER_LAYERS[name] if len(rows) else ():
            distance = layer(u[rows], v[rows]) * scale[rows]
            canvas[rows] = _paint(canvas[rows], distance, torch.tensor(rgb).expand(len(rows), 3))
    return canvas


def _edges(images: Tensor) -> Tensor:
    """Strength of the edges [N, 1, H, W] in [0, 1]."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    weight = torch.stack([kernel, kernel.T])[:, None].repeat(3, 1, 1, 1)
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    g = F.conv2d(padded, weight, groups=3)
    return g.square().sum(1, keepdim=True).sqrt().clamp(0, 1)


def _sketch(images: Tensor, scenes: Scenes) -> Tensor:
    x, y = _grid()
    hatch = (((x + y) % 4) < 2).float()
    strength = 0.15 + 0.45 * hatch
    paper = torch.tensor([0.97, 0.96, 0.93])[:, None, None]
    tinted = paper * (1 - strength) + images * strength
    return tinted * (1 - 0.85 * (1.6 * _edges(images)).clamp(0, 1))


def _pixel_art(images: Tensor, scenes: Scenes) -> Tensor:
    blocks = F.avg_pool2d(images, 4)
    blocks = ((blocks * 5).round() / 5).clamp(0, 1)
    big = F.interpolate(blocks, scale_factor=4, mode="nearest")
    x, y = _grid()
    seam = ((x.floor() % 4 == 3) | (y.floor() % 4 == 3)).float()
    return big * (1 - 0.14 * seam)


def _halftone(images: Tensor, scenes: Scenes) -> Tensor:
    x, y = _grid()
    reach = torch.hypot((x % 4) - 2, (y % 4) - 2)
    ink = 1 - images.amin(1, keepdim=True)
    radius = 0.8 + 1.5 * ink.sqrt()
    dot = (radius - reach + 0.3).clamp(0, 1)
    paper = torch.tensor([0.99, 0.97, 0.90])[:, None, None]
    strong = (images - 0.25 * ink * (1 - images)).clamp(0, 1)
    return paper * (1 - dot) + (strong * 0.92) * dot


def _watercolour(images: Tensor, scenes: Scenes) -> Tensor:
    n = len(images)
    x, y = _grid()
    dx = 0.8 * _waves(scenes, 22.0)
    dy = 0.8 * _waves(scenes, 17.0)
    grid = torch.stack([(x + dx) / SIZE * 2 - 1, (y + dy) / SIZE * 2 - 1], dim=-1)
    warped = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    axis = torch.arange(-3, 4, dtype=torch.float32)
    gauss = torch.exp(-(axis**2) / (2 * 1.1**2))
    gauss = gauss / gauss.sum()
    soft = F.pad(warped, (3, 3, 3, 3), mode="replicate")
    soft = F.conv2d(soft, gauss.view(1, 1, 1, 7).repeat(3, 1, 1, 1), groups=3)
    soft = F.conv2d(soft, gauss.view(1, 1, 7, 1).repeat(3, 1, 1, 1), groups=3)
    pooling = (0.28 + 0.16 * _waves(scenes, 26.0)).view(n, 1, SIZE, SIZE).clamp(0, 0.6)
    paper = torch.tensor([0.99, 0.98, 0.96])[:, None, None]
    washed = soft * (1 - pooling) + paper * pooling
    return washed * (1 - 0.35 * _edges(soft))


_STYLES = {
    "flat picture": lambda images, scenes: images,
    "sketch": _sketch,
    "pixel art": _pixel_art,
    "halftone": _halftone,
    "watercolour": _watercolour,
}


def _render_chunk(scenes: Scenes) -> Tensor:
    images = _subjects(scenes, _backgrounds(scenes))
    out = images.clone()
    for k, name in enumerate(HEADS["style"]):
        rows = (scenes.labels["style"] == k).nonzero()[:, 0]
        if len(rows):
            out[rows] = _STYLES[name](images[rows], scenes[rows])
    return out.clamp(0, 1)


@torch.no_grad()
def render(scenes: Scenes) -> Tensor:
    """Draws scenes.

    Returns:
        float32 [N, 3, 64, 64] in [0, 1]. The same scene gives the same image in any batch.
    """
    chunks = [_render_chunk(scenes[i : i + _CHUNK]) for i in range(0, len(scenes), _CHUNK)]
    return torch.cat(chunks) if chunks else torch.empty(0, 3, SIZE, SIZE)
