"""The published configurations of Stable Diffusion: they pass inspection, and their networks fit together.

The networks are on torch's meta device: they have shapes and no values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from bench.core.headers import TensorInfo
from bench.core.shipped import model_folder
from bench.interfaces import Role
from bench.model.families.latent_unet import LatentUNet
from bench.model.families.sdxl import StableDiffusionXL
from bench.model.families.stable_diffusion import StableDiffusion
from bench.model.pipeline.networks import read_networks
from bench.model.pipeline.sizes import check_sizes
from bench.model.published import LENGTH, NOISE, SD14, SD21, SDXL, Shape
from bench.model.text_to_image import TextToImage
from bench.perf.flops import operations

TEXT: dict[str, Any] = {"vocab_size": 49408, "max_position_embeddings": LENGTH, "eos_token_id": 2,
                        "bos_token_id": 0, "pad_token_id": 1}  # fmt: skip


@dataclass(frozen=True)
class Published:
    family: type[LatentUNet]
    shape: Shape
    side: int
    context: int
    looking: int

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        texts = zip(self.family.encoders, self.shape.texts, strict=True)
        return {
            "unet": self.shape.unet,
            "vae": self.shape.vae,
            **{part: {**TEXT, **fields} for part, fields in texts},
        }


PUBLISHED = {
    "1.4": Published(StableDiffusion, SD14, side=512, context=768, looking=2 * 16),
    "2.1": Published(StableDiffusion, SD21, side=768, context=1024, looking=2 * 16),
    "XL": Published(StableDiffusionXL, SDXL, side=1024, context=2048, looking=2 * 70),
}


def networks(of: Published) -> dict[str, Any]:
    configs = of.configs
    with torch.device("meta"):
        made = {
            "unet": UNet2DConditionModel(**configs["unet"]),
            "vae": AutoencoderKL(**configs["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        }
        if "text_encoder_2" in configs:
            config = CLIPTextConfig(**configs["text_encoder_2"])
            made["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return made


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_passes_inspection(name: str, tmp_path: Path) -> None:
    of = PUBLISHED[name]
    parts = networks(of)
    for part in parts:
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(of.configs[part]))
    tensors = {
        part: {n: TensorInfo("F16", tuple(w.shape), 0, 0) for n, w in network.state_dict().items()}
        for part, network in parts.items()
    }
    sizes = check_sizes(read_networks(tmp_path, of.family.encoders), tensors)
    assert (sizes.image_side, sizes.context_width) == (of.side, of.context)
    assert (sizes.context_length, sizes.words) == (77, 49408)


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_networks_fit_together(name: str) -> None:
    of = PUBLISHED[name]
    words = CLIPTokenizer.from_pretrained(
        model_folder() / "tokenizer", local_files_only=True, model_max_length=77
    )
    two = len(of.shape.texts) == 2
    xl = {"tokenizer_2": words} if two else {}
    schedule = {**NOISE, "prediction_type": of.shape.prediction}
    backbone = of.family(
        **networks(of), tokenizer=words, scheduler_config=schedule, digest="0" * 64, **xl
    )
    model = TextToImage(backbone)
    assert len(model.having(Role.TEXT_KEYS_AND_VALUES)) == of.looking
    assert len(model.layers(Role.CROSS_ATTENTION)) == of.looking // 2
    told = model.encode(["a red star", "a fish"])
    assert told.states_BLD.shape == (2, 77, of.context)
    assert (told.pooled_BD is not None) == two
    noisy = torch.zeros(2, 4, 32, 32, device="meta")
    contexts = model.guidance.contexts(model, told)
    assert model.branches(noisy, 500, contexts).shape == (2, 2, 4, 32, 32)
    assert model.latent_shape[1] * backbone.latent_scale == of.side
    assert model.embed(model.tokenize(["a"])).shape[-1] == of.context


def test_a_prompt_costs_next_to_nothing_beside_its_image() -> None:
    """So to encode a repeated prompt once would save nothing that can be measured (docs/performance.md)."""
    parts = networks(PUBLISHED["1.4"])
    steps, branches = 50, 2
    with torch.no_grad(), torch.device("meta"):
        states, latents = torch.zeros(1, LENGTH, 768), torch.zeros(1, 4, 64, 64)
        prompt = operations(lambda: parts["text_encoder"](torch.zeros(1, LENGTH, dtype=torch.long)))
        call = operations(lambda: parts["unet"](latents, torch.zeros(1), states))
        decoded = operations(lambda: parts["vae"].decode(latents))
    assert 0 < prompt < 1e-3 * (steps * branches * call + decoded)
    assert 2 < decoded / call < 4  # decoding is worth a micro-batch of its own


def test_they_are_spelled_out_in_one_place() -> None:
    root = Path(__file__).parents[3]
    files = [path for folder in ("bench", "tests") for path in (root / folder).rglob("*.py")]
    mine = [path.name for path in files if "320, 640, 1280" in path.read_text()]
    # The other one has the defaults of diffusers' class; and this test has the words.
    assert sorted(mine) == ["configs.py", "published.py", Path(__file__).name]
