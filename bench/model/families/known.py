"""The families that there are. What none of them handles is refused when the base is inspected."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.core.errors import UsageError, shown
from bench.core.json_files import read_object
from bench.model.families.family import Family
from bench.model.families.sdxl import StableDiffusionXL
from bench.model.families.stable_diffusion import StableDiffusion

__all__ = ["FAMILIES", "family_in", "family_named"]

FAMILIES: Final[list[type[Family]]] = [StableDiffusion, StableDiffusionXL]


def family_named(pipeline: object) -> type[Family]:
    """The family whose pipelines have a class.

    Args:
        pipeline: ``_class_name`` of a ``model_index.json``, whatever it is.

    Raises:
        UsageError: there is none.
    """
    for family in FAMILIES:
        if family.pipeline == pipeline:
            return family
    known = " or ".join(f"{family.pipeline} ({family.about})" for family in FAMILIES)
    raise UsageError(f"expected {known}, got {shown(pipeline)}")


def family_in(folder: Path) -> type[Family] | None:
    """The family of a pipeline folder; ``None`` where it is no folder of a pipeline.

    Raises:
        UsageError: its index cannot be read, or there is no such family.
    """
    index = folder / "model_index.json"
    return family_named(read_object(index).get("_class_name")) if index.exists() else None
