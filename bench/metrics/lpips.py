"""LPIPS (Zhang et al. 2018, https://arxiv.org/abs/1801.03924): how different two images look.

Between the edited and the unedited model's image of one prompt and seed. Papers on erasing styles report
it on prompts of the erased style, where more is better, and on others, where less is. Here it is of the
utility prompts. The layers are torchvision's AlexNet or VGG-16, the weights those of the package
``lpips``, version 0.1, converted once to safetensors (``docs/metrics.md``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bench.core.clock import model_time
from bench.core.errors import UsageError
from bench.core.files import expanded, regular
from bench.core.kept import kept_while_same
from bench.core.lazy import F, torch
from bench.core.spec import runtime
from bench.core.weight_files import sound
from bench.interfaces import Metric, UtilityBatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from bench.core.headers import TensorInfo

__all__ = ["Lpips"]

# Where each trunk is looked at: convolutions of torchvision's `features` by their index, whose ReLU is taken.
_ALEX: Final = {
    0: (64, 11, 4, 2),
    3: (192, 5, 1, 2),
    6: (384, 3, 1, 1),
    8: (256, 3, 1, 1),
    10: (256, 3, 1, 1),
}
_VGG: Final = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_SHIFT: Final = (-0.030, -0.088, -0.188)
_SCALE: Final = (0.458, 0.448, 0.450)
_CHUNK: Final = 16
_LEAST: Final = 32
_EPSILON: Final = 1e-10


class Lpips(Metric):
    """The learned distance of the two models' images; 0: alike.

    Attributes:
        weights: A safetensors file with the tensors of ``lpips.LPIPS(net="alex")``, or of ``net="vgg"``. Required.
    """

    name: ClassVar[str] = "lpips"
    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("weights",)
    weights: str = runtime("")

    def files(self) -> tuple[Path, ...]:
        """The file of weights."""
        return (expanded(self.weights).resolve(),) if self.weights else ()

    def check_base(self, folder: Path | None) -> None:
        """Refuses a file that is missing or lacks a layer."""
        try:
            _trunk(sound(regular(self.weights)), expanded(self.weights))
        except UsageError as error:
            raise error.below(self.name, "weights") from error

    def values(self, batch: UtilityBatch) -> Tensor:
        """The distances.

        Returns:
            float32 [B], at least 0.

        Raises:
            ValueError: the images are smaller than 32 pixels, or of different shapes.
        """
        edited, base = batch.images_B3HW, batch.base_images_B3HW
        if edited.shape != base.shape or min(edited.shape[2:]) < _LEAST:
            raise ValueError(
                f"{self.name}: expected images of one shape, at least {_LEAST} pixels, got "
                f"{list(edited.shape)} and {list(base.shape)}"
            )
        look = _load(expanded(self.weights).resolve(), str(edited.device))
        rows = [edited.new_empty(0)]
        for pair in zip(edited.split(_CHUNK), base.split(_CHUNK), strict=True):
            with torch.no_grad(), model_time():
                rows.append(look(*pair))
        return torch.cat(rows)


def _trunk(tensors: Mapping[str, TensorInfo | Tensor], path: Path) -> str:
    """Which trunk a file's tensors are of.

    Raises:
        UsageError: of none, or a layer lacks.
    """
    first = tensors.get("net.slice1.0.weight")
    kinds = {11: "alex", 3: "vgg"}
    kind = kinds.get(int(first.shape[-1])) if first is not None else None
    if kind is None:
        raise UsageError(
            f"{path}: expected the tensors of lpips.LPIPS, got no net.slice1.0.weight of AlexNet or "
            "VGG-16; docs/metrics.md says how to convert them"
        )
    wanted = [f"net.slice{s}.{n}.weight" for s, n in _places(kind)]
    lacking = [name for name in wanted if name not in tensors]
    lacking += [f"lin{k}.model.1.weight" for k in range(5) if _head(tensors, k) is None]
    if lacking:
        raise UsageError(
            f"{path}: expected a tensor {lacking[0]}, got none; convert the whole network"
        )
    return kind


def _places(kind: str) -> list[tuple[int, int]]:
    """Slice and index of every convolution."""
    groups = [(n,) for n in _ALEX] if kind == "alex" else _VGG
    return [(s + 1, n) for s, group in enumerate(groups) for n in group]


def _head(tensors: Mapping[str, Any], number: int) -> Any:
    """The weights of a head; a converter that keeps one of two names may keep either."""
    names = (f"lin{number}.model.1.weight", f"lins.{number}.model.1.weight")
    return next((tensors[name] for name in names if name in tensors), None)


@kept_while_same(lambda path, device: (path,), most=4)
def _load(path: Path, device: str) -> Any:
    """Two batches of images in [0, 1] -> distances [B]."""
    from safetensors.torch import load_file

    tensors = {name: t.float().to(device) for name, t in load_file(path).items()}
    kind = _trunk(tensors, path)
    shift = torch.tensor(_SHIFT, device=device)[:, None, None]
    scale = torch.tensor(_SCALE, device=device)[:, None, None]

    def look(edited: Tensor, base: Tensor) -> Tensor:
        pairs = zip(
            *(_seen(kind, tensors, (2 * x - 1 - shift) / scale) for x in (edited, base)),
            strict=True,
        )
        total = edited.new_zeros(len(edited))
        for number, (one, other) in enumerate(pairs):
            apart = (_unit(one) - _unit(other)).square()
            total = total + F.conv2d(apart, _head(tensors, number)).mean((1, 2, 3))
        return total

    return look


def _seen(kind: str, tensors: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    """The activations that are compared, after the last ReLU of each slice."""
    out: list[Tensor] = []
    for place, (slice_, number) in enumerate(_places(kind)):
        begins = place == 0 or _places(kind)[place - 1][0] != slice_
        name = f"net.slice{slice_}.{number}"
        if kind == "alex":
            _, _, stride, padding = _ALEX[number]
            if number in (3, 6):
                x = F.max_pool2d(x, 3, stride=2)
        else:
            stride, padding = 1, 1
            if begins and place:
                x = F.max_pool2d(x, 2, stride=2)
        x = F.relu(F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], stride, padding))
        if place + 1 == len(_places(kind)) or _places(kind)[place + 1][0] != slice_:
            out.append(x)
    return out


def _unit(x: Tensor) -> Tensor:
    """Each place's channels at length 1."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + _EPSILON)
