"""The base of a plan, loaded on a device that somebody named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from bench.core.errors import UsageError

if TYPE_CHECKING:
    from bench.model.pipeline.inspect import BaseFiles
    from bench.model.text_to_image import TextToImage

__all__ = ["NOTHING_SAID", "Runtime", "batch_of", "device_of", "load_base"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """How networks are computed, as the user said it; none of it is in a digest.

    Attributes:
        device: A torch device, or ``auto``.
        batch_size: Images worked on at once: a number, or ``auto``.
        compiled: Whether the networks are compiled.
        kernels: Of a GPU, in words; ``auto`` measures.
    """

    device: str = "auto"
    batch_size: str = "auto"
    compiled: bool = False
    kernels: str = "auto"


NOTHING_SAID: Final = Runtime()
"""The machine decides, and nothing is compiled."""


def device_of(name: str) -> str:
    """Returns the torch device of a name; ``auto`` is the GPU where there is one.

    Raises:
        UsageError: it is not usable here.
    """
    if name == "cpu":
        return name  # there always is one: torch need not be asked
    import torch

    if name != "auto":
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UsageError(
                f"--device {name!r}: not usable here ({str(error).splitlines()[0]})"
            ) from error
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def batch_of(text: str, device: str) -> int:
    """Returns the number of images to work on at once.

    Raises:
        UsageError: the text is no such number.
    """
    if text == "auto":  # it shrinks by itself when memory runs out
        return 256 if device.startswith("cuda") else 64
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size: expected a number from 1 or auto, got {text!r}")
    return int(text)


def load_base(
    files: BaseFiles,
    dtype: Literal["float32", "bfloat16", "float16"],
    runtime: Runtime,
) -> TextToImage:
    """The unedited model of files that were found fit.

    Args:
        files: The base's.
        dtype: The suite's.
        runtime: How they are computed.

    Raises:
        UsageError: the device or the kernels cannot be used, or the batch is no number.
    """
    from bench.model.backbone import load_inspected
    from bench.model.batching import MicroBatch
    from bench.model.text_to_image import TextToImage

    where = device_of(runtime.device)
    micro = MicroBatch(batch_of(runtime.batch_size, where))
    backbone = load_inspected(
        files, dtype=dtype, device=where, compile=runtime.compiled, kernels=runtime.kernels
    )
    return TextToImage(backbone, micro=micro)
