"""Stand-ins that are tensors under others' names: ImageReward, Q16's prompts, a safety checker, an edited model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.core.rng import generator_for
from bench.model.random_values import random_values

__all__ = ["write_checkpoint", "write_image_reward", "write_q16", "write_safety_checker"]

_WORDS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of")
_SIDE: Final = 224
# Transformers' names of the image tower, and the authors'.
_REWARD: Final = (
    (r"^embeddings\.class_embedding", "cls_token"),
    (r"^embeddings\.position_embedding", "pos_embed"),
    (r"^embeddings\.patch_embedding", "patch_embed.proj"),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.projection\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
    (r"^post_layernorm\.", "norm."),
)
_HEAD: Final = {0: 1024, 2: 128, 4: 64, 6: 16, 7: 1}
"""Widths of its layers, by their places."""
_CHANGED: Final = ".attn2.to_v.weight"
_LEAST: Final = 1e-2


def write_image_reward(folder: Path, *, real_size: bool) -> None:
    """ImageReward: a BLIP that reads the prompt over the image, and a head; of the real size, or tiny."""
    import transformers

    size: dict[str, Any] = (
        {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
        if real_size
        else {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 64}
    )  # fmt: skip
    width = 1024 if real_size else size["hidden_size"]
    image = {
        **size,
        "hidden_size": width,
        "image_size": _SIDE,
        "patch_size": 16 if real_size else 32,
    }
    if real_size:
        image |= {"num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    vision = transformers.BlipVisionConfig(**image)
    text = transformers.BlipTextConfig(
        **size, vocab_size=30524 if real_size else len(_WORDS), encoder_hidden_size=width,
        max_position_embeddings=512,
    )  # fmt: skip
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    with torch.device("meta"):
        towers: dict[str, Any] = {
            "visual_encoder": BlipVisionModel(vision),
            "text_encoder": BlipTextModel(text, add_pooling_layer=False),
        }
    tensors: dict[str, Tensor] = {}
    for part, network in towers.items():
        for name, value in random_values(network, "image_reward", part).state_dict().items():
            tensors[f"blip.{part}.{_renamed(name) if part == 'visual_encoder' else name}"] = value
    wide = size["hidden_size"]
    for place, narrow in _HEAD.items():
        generator = generator_for("rehearsal", "image_reward", place)
        drawn = torch.randn(narrow, wide, generator=generator)
        tensors[f"mlp.layers.{place}.weight"] = drawn / wide**0.5
        tensors[f"mlp.layers.{place}.bias"] = torch.zeros(narrow)
        wide = narrow
    _write(folder / "ImageReward.safetensors", tensors)
    known = {word: number for number, word in enumerate(_WORDS)}
    transformers.BertTokenizer(vocab=known).save_pretrained(folder)


def write_q16(path: Path, width: int) -> None:
    """Q16's two prompts in a CLIP's space of a width."""
    drawn = torch.randn(2, width, generator=generator_for("rehearsal", "q16", width))
    _write(path, {"prompts": drawn})


def write_safety_checker(folder: Path, *, real_size: bool) -> None:
    """Stable Diffusion's safety checker, with thresholds that hardly any image of noise reaches."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    tower: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    if real_size:
        tower = {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": _SIDE, "patch_size": 14,
        }  # fmt: skip
    config = CLIPConfig(vision_config=tower, projection_dim=768 if real_size else 32)
    with torch.device("meta"):
        network: Any = StableDiffusionSafetyChecker(config)
    checker = random_values(network, "safety_checker")
    with torch.no_grad():
        for table in ("concept_embeds_weights", "special_care_embeds_weights"):
            getattr(checker, table).fill_(0.5)
    checker.save_pretrained(folder)


def write_checkpoint(path: Path, base: Path, *, differences: bool) -> None:
    """An edited model for a base: its cross-attention's values, a little changed, under diffusers' names.

    Args:
        path: The file.
        base: A pipeline folder.
        differences: The changes alone, and not the changed values.
    """
    tensors: dict[str, Tensor] = {}
    for source in sorted((base / "unet").glob("*.safetensors")):
        with safe_open(source, framework="pt") as file:
            for name in file.keys():
                if name.endswith(_CHANGED):
                    value = file.get_tensor(name)
                    drawn = torch.randn(value.shape, generator=generator_for("rehearsal", name))
                    change = drawn * _LEAST * value.float().std()
                    tensors[name] = change if differences else value + change.to(value.dtype)
    _write(path, tensors)


def _renamed(name: str) -> str:
    for pattern, replacement in _REWARD:
        name = re.sub(pattern, replacement, name)
    return name


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
