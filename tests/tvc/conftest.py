from __future__ import annotations

import pytest
import torch

from bench.model.text_to_image import TextToImage
from tvc.task_vector import TaskVector


@pytest.fixture
def vector(model: TextToImage) -> TaskVector:
    """Small random differences of two tensors in different blocks."""
    g = torch.Generator().manual_seed(0)
    names = ["unet.conv_in.weight", "unet.mid_block.resnets.0.conv1.weight"]
    tuned = {
        n: model.parameter(n) + 0.01 * torch.randn(model.parameter(n).shape, generator=g)
        for n in names
    }
    return TaskVector.between(model, tuned)
