"""The code at the size of Stable Diffusion 1.4, with random weights: shapes, not pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench.backbone import Backbone
from bench.interfaces import Concept, Rng
from bench.mini.paths import model_folder
from bench.model import TextToImage
from bench.rng import generator_for
from methods.uce import UCE

pytestmark = pytest.mark.slow

# The configurations of CompVis/stable-diffusion-v1-4 where they differ from the classes' defaults.
UNET: dict[str, Any] = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768,
    "attention_head_dim": 8,
}  # fmt: skip
VAE: dict[str, Any] = {
    "sample_size": 512, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "latent_channels": 4, "scaling_factor": 0.18215, "norm_num_groups": 32,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
    "projection_dim": 768,
}  # fmt: skip


def filled(module: Any, values: Tensor) -> Any:
    """The module, which was made without memory, with small values; the norms do nothing."""
    module.to_empty(device="cpu")
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim == 1:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            scale = (2 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 1.0
            flat = weight.view(-1)
            for at in range(0, len(flat), len(values)):
                flat[at : at + len(values)] = values[: len(flat) - at]
            weight.mul_(scale)
    return module


@pytest.fixture(scope="module")
def sd() -> Iterator[TextToImage]:
    """A model of the real size; its tokenizer is the miniature's, at the real length."""
    tokenizer = CLIPTokenizer.from_pretrained(
        model_folder() / "tokenizer", local_files_only=True, model_max_length=77
    )
    special = {
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
        vae = AutoencoderKL(**VAE)
        text = CLIPTextModel(CLIPTextConfig(**TEXT, **special))
    values = torch.randn(1_000_003, generator=generator_for("sd14"))  # a prime: rows differ
    unet, vae, text = (filled(module, values) for module in (unet, vae, text))
    for module in text.modules():
        if isinstance(ids := getattr(module, "position_ids", None), Tensor):
            ids.copy_(torch.arange(ids.shape[-1]).expand_as(ids))
    yield TextToImage(
        Backbone(
            tokenizer=tokenizer,
            text_encoder=text,
            unet=unet,
            vae=vae,
            scheduler_config={},
            digest="0" * 64,
        )
    )


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
    assert states.shape == (1, 77, 768)
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
    edited = UCE.preset("repo-2025").erase(sd, [Concept(text="star")], rng=Rng(("sd14",)))
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
