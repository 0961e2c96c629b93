from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.model.batching import MicroBatch
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of, latents_of

ROOT = Path(__file__).parents[3]
PROMPTS, SEEDS = ["a star", "a moon", "a red fish", "a heart", "a ring"], [3, 1, 4, 1, 5]


def test_a_concepts_latents_are_those_of_its_images(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    images = images_of(model, PROMPTS, SEEDS, tiny_sampler)
    assert torch.equal(images, model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW)
    latents = latents_of(model, images)
    assert (len(latents), latents.dtype, latents.requires_grad) == (5, model.dtype, False)
    assert (model.decode(latents).cpu() - images).abs().mean() < 0.02


def test_what_does_not_fit_into_memory_is_encoded_in_parts(
    model: TextToImage,
    tiny_sampler: Sampler,
    little_memory: Callable[[torch.nn.Module, int], AbstractContextManager[list[int]]],
) -> None:
    images = images_of(model, PROMPTS, SEEDS, tiny_sampler)
    small = replace(model, micro=MicroBatch(64))
    with little_memory(small.backbone.vae.encoder, 2) as refused:
        found = latents_of(small, images)
    assert (refused, small.micro.size) == ([5], 2)
    torch.testing.assert_close(found, latents_of(model, images), atol=1e-4, rtol=1e-4)


def test_images_that_are_not_finite_are_not_learned_from(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    broken = model.with_weights({"unet.conv_out.bias": torch.full((4,), 3e38)})
    with pytest.raises(FloatingPointError, match="expected finite images"):
        images_of(broken, PROMPTS[:1], SEEDS[:1], tiny_sampler)


def test_no_paper_encodes_its_images_by_itself() -> None:
    """Two did so in one batch: memory for 500 images at once was asked for, and not halved."""
    paths = [p for folder in ("methods", "attacks", "tvc") for p in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 30
    calls = [
        str(path.relative_to(ROOT))
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "to_latents"
    ]
    assert not calls
