"""Features that sets of images are compared by: the miniature's judge, and any CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.core.clock import model_time
from bench.core.errors import UsageError
from bench.core.lazy import torch
from bench.core.shipped import judge_folder
from bench.core.spec import runtime
from bench.interfaces import Features
from bench.toolkit.clip import brings_default, check_source, clip_files, load_clip

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ClipFeatures", "JudgeFeatures"]

_CHUNK = 256


class JudgeFeatures(Features):
    """The trunk of the miniature's judge, on the miniature: it sees nothing in other images."""

    name: ClassVar[str] = "mini_judge"

    def files(self) -> tuple[Path, ...]:
        """The judge's weights."""
        return (judge_folder() / "model.safetensors",)

    def check_base(self, folder: Path | None) -> None:
        """Refuses another base than a miniature."""
        if not brings_default(folder):
            raise UsageError(
                f"expected weights of Inception, got none; the default is the miniature's judge, not for the base "
                f"{folder or 'without a folder'}: give a .safetensors file"
            )

    def vectors(self, images_B3HW: Tensor) -> Tensor:
        """The features, float32 [B, 320], of images [B, 3, 64, 64]."""
        from bench.toolkit.judge_net import judge_on

        net = judge_on(judge_folder().resolve(), str(images_B3HW.device))
        found = [images_B3HW.new_empty(0, net.width, dtype=torch.float32)]
        for chunk in images_B3HW.split(_CHUNK) if len(images_B3HW) else ():
            with torch.no_grad(), model_time():
                found.append(net.features(chunk.float()))
        return torch.cat(found)


class ClipFeatures(Features):
    """A CLIP's features of images, of length 1.

    Attributes:
        clip: A source of :func:`bench.toolkit.clip.load_clip`; empty: the miniature's.
    """

    name: ClassVar[str] = "clip"
    clip: str = runtime("")

    def files(self) -> tuple[Path, ...]:
        """The files of its CLIP."""
        return clip_files(self.clip)

    def check_base(self, folder: Path | None) -> None:
        """Refuses another base than the miniature where no CLIP is given."""
        check_source(self.clip, folder, at=("clip",))

    def vectors(self, images_B3HW: Tensor) -> Tensor:
        """The features, float32 [B, E]."""
        return load_clip(self.clip, str(images_B3HW.device)).image_features(images_B3HW)
