"""The difference between a fine-tuned and an unedited model, as a value (Ilharco et al. 2023, arXiv 2212.04089).

Erasure subtracts it: ``theta = theta_base - alpha * tau`` (Pham et al., arXiv 2404.03631).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from bench.core.files import regular
from bench.core.lazy import torch
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TaskVector", "block_of", "subtract_in_place"]

_FORMAT = "task_vector"


def block_of(parameter: str) -> str:
    """The block of the network a parameter belongs to: ``unet.down_blocks.0``, ``unet.mid_block``, ``unet.conv_in``."""
    parts = parameter.split(".")
    return ".".join(parts[:3] if parts[1] in ("down_blocks", "up_blocks") else parts[:2])


@dataclass(frozen=True, eq=False)
class TaskVector:
    """Differences of parameters.

    Attributes:
        base: Digest of the model it belongs to.
        deltas: ``component.name`` -> fine-tuned minus base, float32 on the CPU.
    """

    base: str
    deltas: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        broken = [n for n, d in self.deltas.items() if not bool(torch.isfinite(d).all())]
        if broken:
            raise ValueError(
                f"a task vector must be finite, but {len(broken)} tensors are not, e.g. {broken[0]}; "
                "the fine-tuning diverged: lower its learning rate"
            )

    @classmethod
    def between(cls, model: TextToImage, tuned: Mapping[str, Tensor]) -> TaskVector:
        """From a base and the values of its fine-tuned parameters.

        Raises:
            ValueError: a name or a shape is not the base's, or a value is not finite.
        """
        known = model.base_values
        deltas = {}
        for name, value in tuned.items():
            if name not in known or known[name].shape != value.shape:
                expected = tuple(known[name].shape) if name in known else "no such parameter"
                raise ValueError(
                    f"{name}: the base has {expected}, the fine-tuned model {tuple(value.shape)}; "
                    "both must come from one architecture"
                )
            # In float64: the base plus the difference is then the fine-tuned value again.
            deltas[name] = (value.cpu().double() - known[name].cpu().double()).float()
        return cls(model.base_digest, deltas)

    def __mul__(self, factor: float) -> TaskVector:
        return TaskVector(self.base, {n: d * factor for n, d in self.deltas.items()})

    __rmul__ = __mul__

    def __neg__(self) -> TaskVector:
        return self * -1.0

    def __add__(self, other: TaskVector) -> TaskVector:
        """The sum: several concepts at once. A parameter that one lacks counts as zero there.

        Raises:
            ValueError: the vectors belong to different bases.
        """
        if other.base != self.base:
            raise ValueError(
                f"task vectors of different bases cannot be added: {self.base[:12]} and {other.base[:12]}"
            )
        total = dict(self.deltas)
        for name, delta in other.deltas.items():
            total[name] = total[name] + delta if name in total else delta
        return TaskVector(self.base, total)

    def restricted(self, keep: Callable[[str], bool]) -> TaskVector:
        """Only the parameters that ``keep`` accepts.

        Raises:
            ValueError: it accepts none.
        """
        deltas = {n: d for n, d in self.deltas.items() if keep(n)}
        if not deltas:
            raise ValueError("the subset holds none of the task vector's parameters")
        return TaskVector(self.base, deltas)

    def norms(self) -> dict[str, float]:
        """Euclidean norm by block."""
        squares: dict[str, float] = {}
        for name, delta in self.deltas.items():
            block = block_of(name)
            squares[block] = squares.get(block, 0.0) + float(delta.double().square().sum())
        return {block: total**0.5 for block, total in squares.items()}

    def subtracted(self, model: TextToImage, alpha: float) -> TextToImage:
        """``theta - alpha * tau``, float32 arithmetic; alpha = 0 gives the values of ``model`` bit for bit.

        Raises:
            ValueError: the vector belongs to another base, or the result is not finite.
        """
        if model.base_digest != self.base:
            raise ValueError(
                f"a task vector of base {self.base[:12]}, but this base is {model.base_digest[:12]}; "
                "load the base it was made from"
            )
        edited = {}
        for name, delta in self.deltas.items():
            now = model.parameter(name)
            edited[name] = torch.add(now.float(), delta.to(now.device), alpha=-alpha)
        return model.with_weights(edited)

    def save(self, path: Path, **about: Any) -> None:
        """Writes safetensors with the base's digest; ``about`` goes into the header as JSON."""
        from safetensors.torch import save_file

        header = {"format": _FORMAT, "base": self.base, "about": json.dumps(about)}
        part = path.with_name(path.name + ".part")
        save_file({n: d.contiguous() for n, d in self.deltas.items()}, part, metadata=header)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> TaskVector:
        """Reads what :meth:`save` wrote.

        Raises:
            ValueError: not such a file, damaged, or not finite.
        """
        with _opened(path) as file:
            return cls(_base_in(path, file), {n: file.get_tensor(n) for n in file.keys()})


def subtract_in_place(modules: Mapping[str, torch.nn.Module], path: Path, alpha: float) -> None:
    """Subtracts a saved vector from networks, tensor by tensor: no second copy of model or vector in memory.

    For a pipeline of your own; inside the suite, models are values (:meth:`TaskVector.subtracted`).

    Args:
        modules: Component -> network, e.g. ``{"unet": pipe.unet}``.
        path: Written by :meth:`TaskVector.save`. Its base is not checked: a pipeline has no digest.
        alpha: Edit strength.

    Raises:
        ValueError: a parameter is unknown or has another shape; nothing was changed then.
    """
    places = {
        f"{part}.{name}": weight
        for part, module in modules.items()
        for name, weight in module.named_parameters()
    }
    with _opened(path) as file, torch.no_grad():
        _base_in(path, file)
        for name in file.keys():
            shape = tuple(file.get_slice(name).get_shape())
            if name not in places or tuple(places[name].shape) != shape:
                raise ValueError(
                    f"{path}: {name} of shape {shape} is not a parameter of these networks"
                )
        for name in file.keys():
            weight = places[name]
            delta = file.get_tensor(name).to(weight.device)
            if weight.dtype == torch.float32:
                weight.add_(delta, alpha=-alpha)
            else:
                weight.copy_(torch.add(weight.float(), delta, alpha=-alpha))


def _opened(path: Path) -> Any:
    try:
        return safe_open(regular(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def _base_in(path: Path, file: Any) -> str:
    header = file.metadata() or {}
    if header.get("format") != _FORMAT or "base" not in header:
        raise ValueError(f"{path}: not a task vector; expected a file that TaskVector.save wrote")
    return str(header["base"])
