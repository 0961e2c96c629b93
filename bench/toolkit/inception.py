"""The Inception network of FID, from a safetensors file, on torchvision's layers.

Published FID looks through the network of December 2015, converted from TensorFlow: the file
``pt_inception-2015-12-05``, whose last layer has 1008 classes. Its average pools leave the padding out
and its last block takes the maximum. A file of torchvision's own weights, with 1000 classes, is read
too; distances in it compare with none that is published.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from bench.core.clock import model_time
from bench.core.errors import UsageError, in_one_line
from bench.core.files import expanded, regular
from bench.core.kept import kept_while_same
from bench.core.lazy import F, torch
from bench.core.spec import runtime
from bench.core.weight_files import sound
from bench.interfaces import Features

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["InceptionFeatures", "Resize"]

Resize = Literal["clean", "legacy"]
_SIDE: Final = 299
_WIDTH: Final = 2048
_CHUNK: Final = 32
_FID, _TORCHVISION = 1008, 1000
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_AVERAGED: Final = ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b")


class InceptionFeatures(Features):
    """The 2048 features before the last layer.

    Attributes:
        weights: A safetensors file. Required.
        resize: How images reach 299 pixels: ``clean``, bicubic with antialiasing; ``legacy``, bilinear
            without, as the first implementations in PyTorch have it.
    """

    name: ClassVar[str] = "inception"
    needs: ClassVar[tuple[str, ...]] = ("weights",)
    weights: str = runtime("")
    resize: Resize = "clean"

    def files(self) -> tuple[Path, ...]:
        """The file of weights."""
        return (expanded(self.weights).resolve(),)

    def check_base(self, folder: Path | None) -> None:
        """Refuses a file that is missing or holds another network."""
        path = regular(self.weights)
        if path.suffix != ".safetensors":
            raise UsageError(
                f"expected a .safetensors file, got {path}; pickled weights are not read: convert them"
            )
        tensors = sound(path)
        classes = tensors["fc.weight"].shape[0] if "fc.weight" in tensors else 0
        if classes not in (_FID, _TORCHVISION):
            raise UsageError(
                f"{path}: expected Inception's fc.weight of {_FID} or {_TORCHVISION} classes, got "
                f"{classes or 'no such tensor'}; docs/metrics.md says which file to convert"
            )
        _load(path.resolve(), "cpu")

    def vectors(self, images_B3HW: Tensor) -> Tensor:
        """The features, float32 [B, 2048], on the images' device."""
        look = _load(expanded(self.weights).resolve(), str(images_B3HW.device))
        found = [images_B3HW.new_empty(0, _WIDTH, dtype=torch.float32)]
        for chunk in images_B3HW.split(_CHUNK) if len(images_B3HW) else ():
            with torch.no_grad(), model_time():
                found.append(look(self._resized(chunk.float())))
        return torch.cat(found)

    def _resized(self, images_B3HW: Tensor) -> Tensor:
        size = (_SIDE, _SIDE)
        if self.resize == "legacy":
            return F.interpolate(images_B3HW, size, mode="bilinear", align_corners=False)
        # Cubics overshoot.
        return F.interpolate(
            images_B3HW, size, mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)


@kept_while_same(lambda path, device: (path,), most=4)
def _load(path: Path, device: str) -> Any:
    """Images [B, 3, 299, 299] in [0, 1] -> features [B, 2048].

    Raises:
        UsageError: the tensors are not the network's.
    """
    from safetensors.torch import load_file
    from torchvision.models import Inception3

    weights = load_file(path)
    classes = len(weights["fc.weight"])
    weights = {name: t for name, t in weights.items() if not name.startswith("AuxLogits.")}
    with torch.random.fork_rng(devices=[]):
        network: Any = Inception3(num_classes=classes, aux_logits=False, init_weights=False)
    counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    weights |= {name: torch.tensor(0) for name in counters if name not in weights}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(
            f"{path}: expected Inception's weights, got {in_one_line(error)}"
        ) from error
    if classes == _FID:
        _as_in_tensorflow(network)
    network.fc = torch.nn.Identity()
    network = network.to(device).eval().requires_grad_(False)
    mean = torch.tensor(_MEAN if classes == _TORCHVISION else (0.5,) * 3, device=device)
    std = torch.tensor(_STD if classes == _TORCHVISION else (0.5,) * 3, device=device)
    return lambda x: network((x - mean[:, None, None]) / std[:, None, None])


def _as_in_tensorflow(network: Any) -> None:
    """Makes the pools of the blocks those of the network that was converted."""
    nn = torch.nn

    class Unpadded(nn.Module):
        """The mean over what is no padding, of a mean that counts the padding."""

        def __init__(self, then: Any) -> None:
            super().__init__()
            self.then = then

        def forward(self, mean: Tensor) -> Tensor:
            share = F.avg_pool2d(torch.ones_like(mean[:1, :1]), 3, stride=1, padding=1)
            return self.then(mean / share)

    class Largest(nn.Module):
        """The block with the maximum in place of the mean."""

        def __init__(self, block: Any) -> None:
            super().__init__()
            self.then, self.block = block.branch_pool, block
            block.branch_pool = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            others = self.block(x)[:, : -x.shape[1]]
            return torch.cat([others, self.then(F.max_pool2d(x, 3, stride=1, padding=1))], dim=1)

    for name in _AVERAGED:
        block = getattr(network, f"Mixed_{name}")
        block.branch_pool = Unpadded(block.branch_pool)
    network.Mixed_7c = Largest(network.Mixed_7c)
