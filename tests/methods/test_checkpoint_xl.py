"""Checkpoints and LoRAs of Stable Diffusion XL: all three networks, in the names that trainers give them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.text_to_image import TextToImage, load_model
from methods.checkpoint import Checkpoint
from tests.tiny_bases import make_base

CONCEPTS = [Concept(text="heart")]
STRENGTH = 2.0
# As kohya's trainer and diffusers call the same layers of SDXL, whose UNet here has one layer per block.
LAYERS = {
    "lora_unet_input_blocks_3_1_transformer_blocks_1_attn2_to_k":
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
    "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q":
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "lora_unet_output_blocks_1_1_proj_in": "unet.up_blocks.0.attentions.1.proj_in",
    "lora_te1_text_model_encoder_layers_1_self_attn_q_proj": "text_encoder.encoder.layers.1.self_attn.q_proj",
    "lora_te2_text_model_encoder_layers_2_mlp_fc1": "text_encoder_2.text_model.encoder.layers.2.mlp.fc1",
}  # fmt: skip


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    return load_model(str(make_base("sdxl", tmp_path_factory.mktemp("xl") / "base")))


def halves(model: TextToImage) -> dict[str, tuple[Tensor, Tensor]]:
    draw = generator_for("halves")
    shapes = {layer: model.parameter(f"{layer}.weight").shape for layer in LAYERS.values()}
    return {
        layer: (torch.randn(2, wide, generator=draw), torch.randn(out, 2, generator=draw))
        for layer, (out, wide) in shapes.items()
    }


def check_merged(model: TextToImage, path: Path) -> None:
    spec = Checkpoint(path=str(path), scale=STRENGTH)
    spec.check_base(model.folder)
    edited = spec(model, CONCEPTS, rng=Rng(("xl",)))
    made = halves(model)
    assert set(edited.weights) == {f"{layer}.weight" for layer in made}
    for layer, (down, up) in made.items():
        name = f"{layer}.weight"
        expected = model.parameter(name) + STRENGTH * up @ down
        torch.testing.assert_close(edited.parameter(name), expected, atol=1e-4, rtol=1e-5)


def kohya(model: TextToImage) -> dict[str, Tensor]:
    made = halves(model)
    found: dict[str, Tensor] = {}
    for name, layer in LAYERS.items():
        found[f"{name}.lora_down.weight"], found[f"{name}.lora_up.weight"] = made[layer]
    return found


def test_kohyas_names_of_sdxl_are_read(xl: TextToImage, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(kohya(xl), path, metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    check_merged(xl, path)


def test_diffusers_names_of_sdxl_are_read(xl: TextToImage, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_lora_weights.safetensors"
    found = {}
    for layer, (down, up) in halves(xl).items():
        found[f"{layer}.lora_A.weight"], found[f"{layer}.lora_B.weight"] = down, up
    save_file(found, path)
    check_merged(xl, path)


def test_a_pipeline_comes_back_with_what_changed_in_each_network(
    xl: TextToImage, tmp_path: Path
) -> None:
    names = [f"{layer}.weight" for layer in LAYERS.values()]
    edited = xl.with_weights({name: xl.parameter(name) * 2 for name in names})
    edited.to_diffusers().save_pretrained(tmp_path / "pipe")
    spec = Checkpoint(path=str(tmp_path / "pipe"))
    spec.check_base(xl.folder)
    assert spec(xl, CONCEPTS, rng=Rng(("xl",))).digest == edited.digest


def test_they_are_refused_on_another_base(
    xl: TextToImage, model: TextToImage, tmp_path: Path
) -> None:
    path = tmp_path / "lora.safetensors"
    save_file(kohya(xl), path)
    with pytest.raises(UsageError, match=r"adapter of SDXL .*one of Stable Diffusion XL, as base"):
        Checkpoint(path=str(path)).check_base(model.folder)
    of_unet = {name: value for name, value in kohya(xl).items() if "_te" not in name}
    save_file(
        of_unet, path, metadata={"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    )
    with pytest.raises(UsageError, match=r"weights for SDXL .*one of Stable Diffusion XL, as base"):
        Checkpoint(path=str(path)).check_base(model.folder)
    xl.to_diffusers().save_pretrained(tmp_path / "pipe")
    with pytest.raises(UsageError, match="checkpoint: expected"):
        Checkpoint(path=str(tmp_path / "pipe")).check_base(model.folder)
