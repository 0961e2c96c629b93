"""Signed distances of the miniature's objects and characters, batched over images.

Coordinates are in units of the subject's radius (x to the right, y down, origin at its centre).
Distances are in the same unit, negative inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

__all__ = ["CHARACTER_LAYERS", "OBJECT_DISTANCES"]

Distance = Callable[[Tensor, Tensor], Tensor]
RGB = tuple[float, float, float]


def _polygon(vertices: Sequence[tuple[float, float]]) -> Distance:
    """Exact signed distance to a simple polygon."""

    def distance(x: Tensor, y: Tensor) -> Tensor:
        best = torch.full_like(x, torch.inf)
        inside = torch.zeros_like(x, dtype=torch.bool)
        for (ax, ay), (bx, by) in zip(vertices, (*vertices[1:], vertices[0]), strict=True):
            ex, ey = bx - ax, by - ay
            along = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
            best = torch.minimum(best, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
            if ay != by:
                inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) / (by - ay) * ex)
        return torch.where(inside, -best.sqrt(), best.sqrt())

    return distance


def _disc(cx: float, cy: float, r: float) -> Distance:
    return lambda x, y: torch.hypot(x - cx, y - cy) - r


def _ellipse(cx: float, cy: float, rx: float, ry: float) -> Distance:
    return lambda x, y: (torch.hypot((x - cx) / rx, (y - cy) / ry) - 1) * min(rx, ry)


def _box(cx: float, cy: float, hw: float, hh: float) -> Distance:
    return lambda x, y: torch.maximum((x - cx).abs() - hw, (y - cy).abs() - hh)


def _union(*parts: Distance) -> Distance:
    return lambda x, y: torch.stack([p(x, y) for p in parts]).amin(0)


def _minus(a: Distance, b: Distance) -> Distance:
    return lambda x, y: torch.maximum(a(x, y), -b(x, y))


def _radial(points: int, outer: float, inner: float) -> list[tuple[float, float]]:
    corners = []
    for k in range(2 * points):
        r = outer if k % 2 == 0 else inner
        angle = math.pi * k / points - math.pi / 2
        corners.append((r * math.cos(angle), r * math.sin(angle)))
    return corners


def _flower(x: Tensor, y: Tensor) -> Tensor:
    angle = torch.atan2(y, x)
    petals = torch.hypot(x, y) - (0.74 + 0.26 * torch.cos(6 * angle))
    return torch.maximum(petals * 0.7, -(torch.hypot(x, y) - 0.24))


def _heart_outline() -> list[tuple[float, float]]:
    turn = [2 * math.pi * k / 28 for k in range(28)]
    return [
        (
            1.0 * math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16
            - 0.08,
        )
        for a in turn
    ]


OBJECT_DISTANCES: Final[dict[str, Distance]] = {
    "circle": _disc(0, 0, 0.92),
    "square": _box(0, 0, 0.8, 0.8),
    "triangle": _polygon([(0, -0.98), (0.98, 0.8), (-0.98, 0.8)]),
    "star": _polygon(_radial(5, 1.12, 0.46)),
    "heart": _polygon(_heart_outline()),
    "moon": _minus(_disc(-0.05, 0, 1.0), _disc(0.5, -0.12, 0.84)),
    "arrow": _polygon(
        [(-1, -0.3), (0.08, -0.3), (0.08, -0.86), (1.08, 0), (0.08, 0.86), (0.08, 0.3), (-1, 0.3)]
    ),
    "cross": _union(_box(0, 0, 0.98, 0.33), _box(0, 0, 0.33, 0.98)),
    "ring": lambda x, y: (torch.hypot(x, y) - 0.72).abs() - 0.25,
    "house": _minus(
        _polygon(
            [
                (0, -1.05),
                (1.0, -0.2),
                (0.74, -0.2),
                (0.74, 0.92),
                (-0.74, 0.92),
                (-0.74, -0.2),
                (-1.0, -0.2),
            ]
        ),
        _box(0, 0.56, 0.22, 0.4),
    ),
    "fish": _minus(
        _union(_ellipse(0.2, 0, 0.85, 0.55), _polygon([(-0.4, 0), (-1.1, -0.62), (-1.1, 0.62)])),
        _disc(0.62, -0.12, 0.13),
    ),
    "flower": _flower,
}

# Each character is a fixed stack of painted layers, bottom first.
CHARACTER_LAYERS: Final[dict[str, tuple[tuple[Distance, RGB], ...]]] = {
    "zorbo": (
        (
            _union(
                _polygon([(-0.5, -0.6), (-0.75, -1.15), (-0.6, -1.2), (-0.3, -0.6)]),
                _disc(-0.68, -1.1, 0.17),
            ),
            (0.20, 0.45, 0.15),
        ),
        (
            _union(
                _polygon([(0.5, -0.6), (0.75, -1.15), (0.6, -1.2), (0.3, -0.6)]),
                _disc(0.68, -1.1, 0.17),
            ),
            (0.20, 0.45, 0.15),
        ),
        (_ellipse(0, 0.1, 0.95, 0.88), (0.62, 0.85, 0.20)),
        (_disc(0, -0.1, 0.45), (1.0, 1.0, 1.0)),
        (_disc(0, -0.1, 0.2), (0.10, 0.10, 0.30)),
        (_box(0, 0.62, 0.4, 0.09), (0.35, 0.10, 0.15)),
    ),
    "mipsy": (
        (
            _union(
                _polygon([(-0.9, -1.1), (-0.2, -0.6), (-0.85, -0.1)]),
                _polygon([(0.9, -1.1), (0.2, -0.6), (0.85, -0.1)]),
            ),
            (0.85, 0.45, 0.45),
        ),
        (_ellipse(0, 0.1, 0.95, 0.8), (0.98, 0.72, 0.72)),
        (_union(_disc(-0.38, -0.1, 0.15), _disc(0.38, -0.1, 0.15)), (0.10, 0.35, 0.20)),
        (_polygon([(-0.16, 0.22), (0.16, 0.22), (0, 0.42)]), (0.75, 0.10, 0.25)),
        (
            _union(
                _box(-0.85, 0.28, 0.32, 0.04),
                _box(0.85, 0.28, 0.32, 0.04),
                _box(-0.85, 0.5, 0.32, 0.04),
                _box(0.85, 0.5, 0.32, 0.04),
            ),
            (0.25, 0.10, 0.15),
        ),
    ),
    "brakk": (
        (_union(_box(0, -1.0, 0.06, 0.25), _disc(0, -1.15, 0.14)), (0.75, 0.15, 0.15)),
        (_box(0, 0.08, 0.85, 0.85), (0.50, 0.55, 0.62)),
        (_union(_box(-0.98, 0.1, 0.13, 0.3), _box(0.98, 0.1, 0.13, 0.3)), (0.25, 0.28, 0.35)),
        (_union(_box(-0.38, -0.22, 0.24, 0.2), _box(0.38, -0.22, 0.24, 0.2)), (0.98, 0.90, 0.30)),
        (_union(_box(0, 0.5, 0.55, 0.2)), (0.15, 0.16, 0.22)),
        (
            _union(_box(-0.3, 0.5, 0.06, 0.2), _box(0, 0.5, 0.06, 0.2), _box(0.3, 0.5, 0.06, 0.2)),
            (0.80, 0.82, 0.85),
        ),
    ),
}
