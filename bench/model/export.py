"""An edited model as an ordinary diffusers pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from bench.model.backbone import Backbone
from bench.model.on_cpu import unsuit

__all__ = ["pipeline_with"]


def pipeline_with(backbone: Backbone, weights: Mapping[str, Tensor]) -> Any:
    """A ``StableDiffusionPipeline`` with replaced values: a copy, free to change or save.

    Args:
        backbone: The unedited networks.
        weights: ``component.name`` -> value.
    """
    parts = {name: deepcopy(getattr(backbone, name)) for name in ("unet", "text_encoder", "vae")}
    unsuit(**parts)
    with torch.no_grad():
        for name, value in weights.items():
            part, _, rest = name.partition(".")
            parts[part].get_parameter(rest).copy_(value)
    return StableDiffusionPipeline(
        **parts,
        tokenizer=backbone.tokenizer,
        scheduler=DDIMScheduler.from_config(backbone.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
