"""New values of parameters: what the base's precision rounds away is counted."""

from __future__ import annotations

import logging

import pytest
import torch

from bench.model.replacing import rounded_away
from bench.model.text_to_image import load_model


def test_changes_below_half_a_spacing_are_counted() -> None:
    was = torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.bfloat16)
    wanted = torch.tensor([1.001, 1.1, 1.0, 1.999])  # spacings above 1 and below 2 are 2^-7
    assert rounded_away(was, wanted, wanted.to(was)).tolist() == [2, 3]
    assert rounded_away(was.float(), wanted, wanted).tolist() == [0, 0], "as precise as the values"
    assert rounded_away(was, wanted.to(was), wanted.to(was)).tolist() == [0, 0]


def test_a_half_precision_says_what_it_lost(caplog: pytest.LogCaptureFixture) -> None:
    half = load_model("miniature", dtype="bfloat16")
    name = "unet.conv_in.weight"
    value = half.parameter(name).float()
    with caplog.at_level(logging.WARNING):
        same = half.with_weights({name: value * (1 + 1e-4)})
    assert torch.equal(same.weights[name], half.parameter(name))
    assert half.meter.notes == {"rounded_away": 1.0}
    assert "100 % of what an edit changed is rounded away" in caplog.text
    half.meter.notes.clear()
    half.with_weights({name: value * 2})
    assert half.meter.notes == {}
