"""A model that predicts noise, written as one that predicts v: the same images, the other target."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from bench.model.schedule import Schedule
from bench.model.text_to_image import TextToImage

__all__ = ["in_v_form"]


def in_v_form(model: TextToImage) -> TextToImage:
    """The model whose UNet says v where its own says noise; its edit, if any, stays."""
    backbone = model.backbone
    unet = deepcopy(backbone.unet)
    unet.__class__ = _V
    unet.noise_schedule = backbone.schedule
    config = {**backbone.scheduler_config, "prediction_type": "v_prediction"}
    return replace(model, backbone=replace(backbone, unet=unet, scheduler_config=config))


class _V(UNet2DConditionModel):  # type: ignore[misc]  # mypy skips diffusers
    noise_schedule: Schedule

    def forward(self, sample: Any, timestep: Any, *rest: Any, **named: Any) -> Any:
        (noise_BChw,) = super().forward(sample, timestep, *rest, **{**named, "return_dict": False})
        t_B = torch.as_tensor(timestep).expand(len(sample))
        as_v = replace(self.noise_schedule, prediction="v_prediction")
        return (as_v.from_noise(noise_BChw, sample, t_B.round().long()),)
