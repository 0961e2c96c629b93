"""The classes of a base's parts: an allow-list, read before any library sees the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.core.errors import UsageError, shown

__all__ = ["check_index"]

_PIPELINE: Final = "StableDiffusionPipeline"
_SCHEDULERS: Final = frozenset(
    {
        "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
        "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler",
    }
)  # fmt: skip
_CLASSES: Final[Mapping[str, frozenset[tuple[str, str]]]] = {
    "tokenizer": frozenset(
        {("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")}
    ),
    "text_encoder": frozenset({("transformers", "CLIPTextModel")}),
    "unet": frozenset({("diffusers", "UNet2DConditionModel")}),
    "vae": frozenset({("diffusers", "AutoencoderKL")}),
    "scheduler": frozenset(("diffusers", name) for name in _SCHEDULERS),
    # These are never loaded; they are part of what was published.
    "safety_checker": frozenset({("stable_diffusion", "StableDiffusionSafetyChecker")}),
    "feature_extractor": frozenset(
        ("transformers", f"CLIP{kind}")
        for kind in (
            "FeatureExtractor",
            "ImageProcessor",
            "ImageProcessorFast",
            "ImageProcessorPil",
        )
    ),
    "image_encoder": frozenset({("transformers", "CLIPVisionModelWithProjection")}),
}


def check_index(index: Mapping[str, Any], parts: Sequence[str], path: Path) -> dict[str, str]:
    """The class of each part, of those that are known.

    Raises:
        UsageError: another pipeline, another class, or a part that a Stable Diffusion has not.
    """
    name = index.get("_class_name")
    if name != _PIPELINE:
        raise UsageError(
            f"{path}: _class_name: expected {_PIPELINE} (Stable Diffusion 1.x or 2.x), got {shown(name)}"
        )
    classes = {}
    for part, pair in index.items():
        if (
            part.startswith("_")
            or part == "requires_safety_checker"
            or pair in (None, [None, None])
        ):
            continue
        if part not in _CLASSES:
            raise UsageError(f"{path}: {shown(part)}: no part of a {_PIPELINE}")
        match pair:
            case [str(library), str(kind)] if (library, kind) in _CLASSES[part]:
                classes[part] = kind
            case _:
                known = sorted(_CLASSES[part])
                expected = ", ".join(f"[{library}, {kind}]" for library, kind in known)
                raise UsageError(f"{path}: {part}: expected {expected}, got {shown(pair)}")
    if missing := [part for part in parts if part not in classes]:
        raise UsageError(
            f"{path.parent} lacks {', '.join(missing)}; expected a Stable Diffusion pipeline"
        )
    return {part: classes[part] for part in parts}
