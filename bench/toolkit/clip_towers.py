"""The two towers of a CLIP, and how images are prepared for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from bench.core.clock import model_time
from bench.core.lazy import F, torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Clip", "Preprocess"]

Items = TypeVar("Items")

_CHUNK = 64
_KNOWN = 256


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How pixels reach the image tower.

    Attributes:
        size: Side of the square input.
        mean: Of each channel, subtracted.
        std: Of each channel, divided by.
        interpolation: ``bicubic`` or ``bilinear``, both antialiased.
        resize: ``shortest`` scales the shorter side to the size and crops the centre; ``squash``
            scales each side to the size.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize: str = "shortest"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(v > 0 for v in self.std):
            raise ValueError(f"expected mean and std of 3 channels, got {self.mean}, {self.std}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"expected bicubic or bilinear, got {self.interpolation!r}")
        if self.resize not in ("shortest", "squash"):
            raise ValueError(f"expected shortest or squash, got {self.resize!r}")

    def __call__(self, images_B3HW: Tensor) -> Tensor:
        """Resizes, crops and normalises.

        Args:
            images_B3HW: Floats in [0, 1].

        Returns:
            float32 [B, 3, size, size].
        """
        x, side = images_B3HW.float(), self.size
        height, width = x.shape[-2:]
        if (height, width) != (side, side):
            short = min(height, width)
            full = (side * height // short, side * width // short)
            to = full if self.resize == "shortest" else (side, side)
            x = F.interpolate(x, to, mode=self.interpolation, antialias=True, align_corners=False)
            top, left = round((to[0] - side) / 2), round((to[1] - side) / 2)
            # Cubics overshoot.
            x = x[..., top : top + side, left : left + side].clamp(0, 1)
        return (x - x.new_tensor(self.mean).view(3, 1, 1)) / x.new_tensor(self.std).view(3, 1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """An image tower and a text tower that share a space.

    Attributes:
        width: E, the size of the shared space.
        logit_scale: What cosines are multiplied by before a softmax.
        preprocess: How pixels reach the image tower.
        encode_images: Pixels [b, 3, size, size] -> [b, E].
        encode_texts: b texts -> [b, E].
        device: Where the weights are, and the features.
    """

    width: int
    logit_scale: float
    preprocess: Preprocess
    encode_images: Callable[[Tensor], Tensor]
    encode_texts: Callable[[list[str]], Tensor]
    device: str = "cpu"
    _known: dict[tuple[str, ...], Tensor] = field(init=False, repr=False, default_factory=dict)

    def image_features(self, images_B3HW: Tensor) -> Tensor:
        """Features of images, each of length 1.

        Args:
            images_B3HW: Floats in [0, 1], of any size.

        Returns:
            float32 [B, E].

        Raises:
            ValueError: the images have another shape, or are integers.
        """
        shape = list(images_B3HW.shape)
        if len(shape) != 4 or shape[1] != 3 or not images_B3HW.is_floating_point():
            raise ValueError(
                f"expected floats [B, 3, H, W] in [0, 1], got {images_B3HW.dtype} {shape}"
            )
        chunks = images_B3HW.split(_CHUNK) if shape[0] else ()
        return self._features(
            chunks,
            lambda chunk: self.encode_images(self.preprocess(chunk.to(self.device))),
            gradients=images_B3HW.requires_grad,
        )

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, each of length 1; a text that is too long for the model is cut.

        Returns:
            float32 [B, E].
        """
        if isinstance(texts, str):
            raise ValueError(f"expected a list of texts, got the one text {texts!r}")
        chunks = [list(texts[at : at + _CHUNK]) for at in range(0, len(texts), _CHUNK)]
        return self._features(chunks, self.encode_texts)

    def known_features(self, texts: tuple[str, ...]) -> Tensor:
        """As :meth:`text_features`, worked out once: a judge compares all its images with a few texts."""
        if texts not in self._known:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[texts] = self.text_features(texts)
        return self._known[texts]

    def _features(
        self,
        chunks: Iterable[Items],
        encode: Callable[[Items], Tensor],
        *,
        gradients: bool = False,
    ) -> Tensor:
        """Encodes chunk by chunk; [0, E] without any."""
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()), model_time():
            rows = [F.normalize(encode(chunk).float(), dim=-1) for chunk in chunks]
        return torch.cat(rows) if rows else torch.empty(0, self.width, device=self.device)
