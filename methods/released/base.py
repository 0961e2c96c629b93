"""The base that an edited model is compared with: a loaded model, or the files of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.model.families.known import family_in
from bench.model.families.roles import Role
from bench.model.families.sdxl import StableDiffusionXL
from bench.model.families.stable_diffusion import StableDiffusion
from bench.model.pipeline.weights import find_weights
from bench.model.text_to_image import TextToImage
from methods.released.files import Network, networks
from methods.released.lora import Shapes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Base"]


@dataclass(frozen=True, eq=False)
class Base:
    """Names and shapes of a base's parameters, and their values when they are asked for.

    Attributes:
        shapes: By ``component.name``.
        value: The value of one, on the CPU.
    """

    shapes: Shapes
    value: Callable[[str], Tensor] = field(repr=False)

    @classmethod
    def of_model(cls, model: TextToImage) -> Base:
        """A loaded model, with the edits that it has."""
        shapes = {name: tuple(w.shape) for name, w in model.base_values.items()}
        return cls(shapes, lambda name: model.parameter(name).cpu())

    @classmethod
    def of_folder(cls, folder: Path) -> Base | None:
        """A pipeline folder, by its headers; ``None`` where it has no safetensors of the networks.

        Raises:
            UsageError: one of them cannot be read.
        """
        family = family_in(folder) or StableDiffusion
        files = {part: _loaded(folder / part, family.stems[part]) for part in family.edited}
        if not all(files.values()):
            return None
        places: dict[str, tuple[Network, str]] = {}
        for network in networks(files, str(folder)):
            for name in network.tensors:
                if not name.endswith("position_ids"):  # a table, no parameter
                    places[f"{network.part}.{name.removeprefix(f'{network.part}.')}"] = (
                        network,
                        name,
                    )
        shapes = {full: network.tensors[name].shape for full, (network, name) in places.items()}

        def value(full: str) -> Tensor:
            network, name = places[full]
            return network.value(name).float()  # as a suite loads it, unless told otherwise

        return cls(shapes, value)

    @property
    def text_width(self) -> int | None:
        """Of the text states that the UNet looks at: 768 in Stable Diffusion 1.x, 1024 in 2.x, 2048 in XL."""
        roles_of, looks = StableDiffusionXL.roles_of, Role.TEXT_KEYS_AND_VALUES
        return next((s[-1] for n, s in self.shapes.items() if looks in roles_of(n)), None)

    @property
    def is_xl(self) -> bool:
        """Whether it has a second text encoder, as Stable Diffusion XL has."""
        return any(name.startswith("text_encoder_2.") for name in self.shapes)


def _loaded(folder: Path, stem: str) -> list[Path]:
    """The safetensors that are loaded; any others lie there for no one."""
    files = find_weights(folder, stem).files if folder.is_dir() else ()
    return [file for file in files if file.suffix == ".safetensors"]
