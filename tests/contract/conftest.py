"""The base of the contract tests: what holds on any network is tested on a small one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.model.batching import MicroBatch
from bench.model.text_to_image import TextToImage, load_model
from tests.tiny_bases import make_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    """The miniature with a smaller UNet of random weights; take ``model`` instead."""
    return load_model(str(make_base("sd1", tmp_path_factory.mktemp("sd1") / "base")))


@pytest.fixture
def model(base: TextToImage) -> TextToImage:
    """The small base, with a micro-batch of the test's own."""
    return replace(base, micro=MicroBatch(64))
