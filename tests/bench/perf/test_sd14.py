"""The code at the size of Stable Diffusion 1.4, with random weights: shapes, not pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.text_to_image import TextToImage
from bench.perf.sd14 import sd14
from methods.uce import UCE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sd() -> TextToImage:
    """A model of the real size, random weights; its tokenizer is the miniature's, at the real length."""
    return sd14()


def small_latents(rows: int) -> Tensor:
    """A sixteenth of the real area: the UNet is the same, the test is short."""
    return torch.randn(rows, 4, 16, 16, generator=generator_for("latents", rows))


def test_its_parts_have_the_published_sizes(sd: TextToImage) -> None:
    def millions(part: nn.Module) -> int:
        return round(sum(p.numel() for p in part.parameters()) / 1e6)

    backbone = sd.backbone
    sizes = [millions(part) for part in (backbone.unet, backbone.text_encoder, backbone.vae)]
    assert sizes == [860, 123, 84]
    assert sd.latent_shape == (4, 64, 64)
    assert backbone.length == 77
    assert backbone.latent_scale == 8


def test_it_denoises_and_guides(sd: TextToImage) -> None:
    states = sd.encode(["a red star"])
    assert states.states_BLD.shape == (1, 77, 768)
    x = small_latents(1)
    with torch.no_grad():
        contexts = sd.guidance.contexts(sd, states)
        eps, _ = sd.guide(x, 500, contexts, 1.0)
        alone = sd.denoise(x, 500, states)
    assert eps.shape == x.shape
    assert torch.isfinite(eps).all()
    assert eps.abs().max() > 0
    torch.testing.assert_close(eps, alone, atol=1e-4, rtol=1e-3)


def test_uce_edits_its_32_matrices(sd: TextToImage) -> None:
    edited = UCE.preset("repo-2025")(sd, [Concept(text="star")], rng=Rng(("sd14",)))
    assert len(edited.weights) == 32
    assert {w.shape[1] for w in edited.weights.values()} == {768}
    assert all(torch.isfinite(w).all() for w in edited.weights.values())
    assert all(not torch.equal(w, sd.parameter(n)) for n, w in edited.weights.items())
    states, x = sd.encode(["a red star"]), small_latents(1)
    with torch.no_grad():
        eps, plain = edited.denoise(x, 500, states), sd.denoise(x, 500, states)
    assert torch.isfinite(eps).all()
    assert not torch.equal(eps, plain)


def test_its_decoder_runs(sd: TextToImage) -> None:
    image = sd.decode(small_latents(1)[..., :8, :8]).detach()
    assert image.shape == (1, 3, 64, 64)
    assert torch.isfinite(image).all()
