"""The contract holds at any size of picture: a quarter of the pixels, a quarter of the time."""

from __future__ import annotations

import pytest

from bench.model.sampler import Sampler


@pytest.fixture(scope="session")
def tiny_sampler() -> Sampler:
    """The quickest sampler that has a step after the first, at half the side."""
    return Sampler(steps=2, size=32)
